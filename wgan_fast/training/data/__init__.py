"""Real samples: what a data set is, readers of images, toy distributions."""
