"""A trainer in a folder: the only part that reads and writes files."""
