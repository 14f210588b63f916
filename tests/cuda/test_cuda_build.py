"""What setup.py does about CUDA: WGAN_FAST_CUDA, a toolkit that is absent or not complete."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from host_build import KERNELS, ROOT

pytest.importorskip("pybind11")

SETUP = """
import runpy, sys
from build_tools import cuda
{patch}
sys.argv = ["setup.py", "--version"]
sys.modules["setuptools"].setup = lambda ext_modules, **rest: print([e.name for e in ext_modules])
runpy.run_path("setup.py")
"""
NO_NVCC = "cuda.find_nvcc = lambda: None"
NO_RUNTIME = "cuda.find_nvcc = lambda: '/opt/nvcc'; cuda.folders = lambda nvcc: ('/include', None)"
COMPLETE = "cuda.find_nvcc = lambda: '/opt/nvcc'; cuda.folders = lambda nvcc: ('/include', '/lib')"


def setup(patch: str, choice: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WGAN_FAST_CUDA": choice}
    command = [sys.executable, "-c", SETUP.format(patch=patch)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("patch", "choice", "built"),
    [
        (COMPLETE, "auto", True),
        (COMPLETE, "1", True),
        (COMPLETE, "0", False),
        (NO_NVCC, "auto", False),
        (NO_RUNTIME, "auto", False),
        (NO_NVCC, "0", False),
    ],
)
def test_the_extension_is_built_where_it_can_be_and_is_wanted(patch: str, choice: str, built: bool) -> None:
    done = setup(patch, choice)
    assert done.returncode == 0, done.stderr
    assert ("wgan_fast._cuda" in done.stdout) == built


@pytest.mark.parametrize(
    ("patch", "choice", "sentence"),
    [
        (NO_NVCC, "1", "WGAN_FAST_CUDA=1: nvcc of the CUDA toolkit was not found"),
        (NO_RUNTIME, "1", "WGAN_FAST_CUDA=1: libcudart_static.a was not found beside /opt/nvcc"),
        (COMPLETE, "yes", "WGAN_FAST_CUDA='yes': expected auto, 0 or 1"),
    ],
)
def test_what_is_asked_for_and_cannot_be_is_one_line(patch: str, choice: str, sentence: str) -> None:
    done = setup(patch, choice)
    assert done.returncode != 0
    assert done.stderr.startswith(sentence), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_source_distribution_has_what_the_build_needs(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "sdist", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"setup.py", "build_tools/cuda.py", "csrc/rules.h", "csrc/cuda/bindings.cpp", "csrc/cuda/launch.cuh"}
    assert wanted | {f"csrc/cuda/{kernel}.cu" for kernel in KERNELS} <= names
