"""A trainer in a folder: the only part that knows files."""
