"""What setup.py does about CUDA: WGAN_FAST_CUDA, a toolkit that is absent or not complete."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from host_build import KERNELS, ROOT
from setuptools.errors import CompileError

from build_tools import cuda

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


# ---------------------------------------------------------------- what nvcc made before

NVCC = """#!/bin/sh
case "$1" in --version) echo "release $RELEASE"; exit;; esac
while [ "$1" != -c ]; do shift; done
echo "$2" >> log
grep -q broken "$2" && { echo "an error" >&2; exit 1; }
cp "$2" "$4"
while [ "$1" != --keep-dir ]; do shift; done
touch "$2/a.compute_90.ptx" "$2/a.cpp1.ii"
echo "Used 40 registers" >&2
"""


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree of two kernels, and an nvcc that notes what it compiles."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    program = tmp_path / "bin" / "nvcc"
    program.write_text(NVCC)
    program.chmod(0o755)
    for name in ("clip.cu", "step.cu", "launch.cuh"):
        (tmp_path / "csrc" / "cuda" / name).write_text(f"// {name}")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("RELEASE", "13.0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compiled_again(toolkit: Path) -> list[str]:
    (toolkit / "log").write_text("")
    objects = cuda.compile_kernels(Path("objects"))
    assert all(Path(name).exists() for name in objects)
    folders = [Path(name).parent for name in objects]
    assert set(folders) == set(Path("objects").iterdir()), "what is out of date is gone"
    for folder in folders:
        assert {path.suffix for path in folder.iterdir()} == {".o", ".ptx", ".txt"}
        assert (folder / "ptxas.txt").read_text() == "Used 40 registers\n"
    return sorted(Path(line).name for line in (toolkit / "log").read_text().split())


def test_kernels_are_compiled_again_only_if_their_sources_differ(toolkit: Path) -> None:
    kernels = toolkit / "csrc" / "cuda"
    assert compiled_again(toolkit) == ["clip.cu", "step.cu"]
    for source in kernels.iterdir():  # a copy to another machine
        os.utime(source, (2e9, 2e9))
    assert compiled_again(toolkit) == []
    (kernels / "clip.cu").write_text("// faster")
    assert compiled_again(toolkit) == ["clip.cu"]
    (kernels / "launch.cuh").write_text("// for all")
    assert compiled_again(toolkit) == ["clip.cu", "step.cu"]


def test_kernels_are_compiled_again_by_another_nvcc(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled_again(toolkit) == ["clip.cu", "step.cu"]
    monkeypatch.setenv("RELEASE", "13.1")
    assert compiled_again(toolkit) == ["clip.cu", "step.cu"]


@pytest.mark.usefixtures("toolkit")
def test_a_kernel_that_does_not_compile_leaves_nothing_to_be_used_again() -> None:
    Path("csrc/cuda/step.cu").write_text("// broken")
    for _ in range(2):
        with pytest.raises(CompileError, match=r"nvcc could not compile csrc/cuda/step\.cu:\nan error"):
            cuda.compile_kernels(Path("objects"))
    assert [path.name.partition("-")[0] for path in Path("objects").iterdir()] == ["clip"]
