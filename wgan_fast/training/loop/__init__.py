"""The training loop: state and schedule. Knows no files."""
