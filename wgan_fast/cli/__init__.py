"""The command ``wgan-fast``: main.py runs commands, options.py parses them; console.py, doctor.py, bench.py print."""

from __future__ import annotations

from wgan_fast.cli.main import main

__all__ = ["main"]
