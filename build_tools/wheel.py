"""Builds the sdist and, from it, the wheel; checks them; tries the wheel without a source tree: ``make wheel``.

The trial is first in an environment with torch alone, then with the extras: a short training, the benchmark, every
example, and a user's file under mypy. WGAN_FAST_CUDA=1 builds the CUDA kernels too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
BUILD = {"WGAN_FAST_CPU": "1", "WGAN_FAST_CUDA": os.environ.get("WGAN_FAST_CUDA", "0")}


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    call(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    call(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    (wheel,) = DIST.glob("*.whl")
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as folder:
        try_out(wheel, Path(folder))


def call(*command: str | Path, folder: Path = ROOT) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(word) for word in command], cwd=folder, env=os.environ | BUILD, check=True)


def check_contents(wheel: Path) -> None:
    """The package and its metadata, and nothing else; with its types, its data and its compiled kernels."""
    names = zipfile.ZipFile(wheel).namelist()
    package = [name for name in names if not name.partition("/")[0].endswith(".dist-info")]
    strays = [name for name in package if not name.startswith("wgan_fast/") or name.endswith((".cpp", ".cu", ".h"))]
    assert not strays, f"{wheel.name} holds {strays}"
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "wgan_fast").rglob("*.py*") if path.suffix != ".pyc"}
    missing = {*sources, "wgan_fast/py.typed", "wgan_fast/cli/published.json"} - set(package)
    assert not missing, f"{wheel.name} lacks {missing}"
    assert any(name.startswith("wgan_fast/_cpu.") and name.endswith(".so") for name in package), "no C++ kernels"


def try_out(wheel: Path, folder: Path) -> None:
    """Install the wheel in an environment of its own and use it, from an empty folder."""
    environment, away = folder / "environment", folder / "away"
    venv.create(environment, with_pip=True)
    away.mkdir()
    python = environment / "bin" / "python"
    install = (python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
    call(*install, wheel, folder=away)
    call(python, "-I", ROOT / "build_tools" / "bare_trial.py", folder=away)
    call(*install, f"{wheel}[examples]", "mypy", folder=away)
    call(environment / "bin" / "wgan-fast", "train", "--iterations", "20", folder=away)
    call(environment / "bin" / "wgan-fast", "bench", "--rounds", "1", folder=away)
    for source in [*sorted((ROOT / "examples").glob("*.py")), ROOT / "tests" / "typing" / "downstream.py"]:
        shutil.copy(source, away)
    for example in sorted((ROOT / "examples").glob("*.py")):
        call(python, example.name, "--smoke", folder=away)
    call(python, "-m", "mypy", "--strict", "downstream.py", folder=away)


if __name__ == "__main__":
    main()
