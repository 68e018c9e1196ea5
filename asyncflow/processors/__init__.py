"""What is done to files: one file per processor."""
