"""The command ``wgan-fast``: main.py carries commands out, options.py reads them, console.py shows what happens."""
