"""Where bytes live: one contract, one file per backend."""
