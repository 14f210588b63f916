"""``python -m wgan_fast``: the command ``wgan-fast``."""

from __future__ import annotations

import sys

from wgan_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
