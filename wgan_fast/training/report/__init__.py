"""What is said of a trained generator: figures and pictures."""
