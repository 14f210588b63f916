"""Every example runs from start to end with --smoke, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {"lightning_wgan_gp": "lightning", "accelerate_ddp": "accelerate"}
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def run(*command: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_smoke(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"the example needs {NEEDS[name]}")
    assert run(str(EXAMPLES / f"{name}.py"), "--smoke", folder=tmp_path).strip()


def test_two_processes_share_the_accelerate_example(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the example needs accelerate")
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    assert "2 processes" in run(*launcher, str(EXAMPLES / "accelerate_ddp.py"), "--smoke", folder=tmp_path)
