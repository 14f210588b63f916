"""Reports on a trained generator: figures and pictures."""
