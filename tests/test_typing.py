"""The types that users see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import wgan_fast

DOWNSTREAM = Path(__file__).parent / "typing" / "downstream.py"


def test_a_users_file_is_strictly_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs mypy")
    silent = ("--follow-imports", "silent")  # as for an installed package: errors of the user's file alone
    command = [sys.executable, "-m", "mypy", "--strict", *silent, "--cache-dir", str(tmp_path), str(DOWNSTREAM)]
    installed = Path(wgan_fast.__file__).parents[1]  # mypy cannot follow an editable install, and refuses site-packages
    environment = os.environ | ({} if installed.name == "site-packages" else {"MYPYPATH": str(installed)})
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
