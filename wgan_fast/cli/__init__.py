"""The command ``wgan-fast``: main.py carries commands out, options.py reads them, console.py shows what happens."""

from __future__ import annotations

from wgan_fast.cli.main import main

__all__ = ["main"]
