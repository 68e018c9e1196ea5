"""The database seam: a private list of operations, one transaction each."""
