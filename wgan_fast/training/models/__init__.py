"""Built-in networks, and samples from them."""
