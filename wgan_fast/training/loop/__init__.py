"""The training loop: state and schedule. Reads and writes no files."""
