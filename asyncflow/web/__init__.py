"""Everything that knows HTTP: one file per surface."""
