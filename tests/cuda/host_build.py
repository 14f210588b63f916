"""Builds of csrc/cuda for the host: the kernel sources themselves, compiled by g++ against tests/cuda/host.

Every build is kept in build/host-cuda under a hash of its sources and flags, so the second run compiles nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from build_tools import cuda

ROOT = Path(__file__).resolve().parents[2]
HOST = Path(__file__).resolve().parent / "host"
CACHE = ROOT / "build" / "host-cuda"
KERNELS = (
    "activation_double_backward",
    "clip_weights",
    "interpolate",
    "gradient_norm_penalty",
    "norm_double_backward",
    "optimizer_step",
)
FLAGS = (
    "-std=c++17",
    "-g1",  # the lines that a sanitizer reports; variables would take a quarter of the compiler's time
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-ffp-contract=off",
)


class Fault(NamedTuple):
    """A text in a file of csrc/cuda, what to put in its place, and the kernel file that is to suffer from it."""

    kernel: str
    file: str
    text: str
    replacement: str


def compiler() -> str | None:
    return shutil.which("g++")


def _key(*parts: object, sources: list[Path]) -> str:
    digest = hashlib.sha256(repr(parts).encode())
    for path in sorted({*sources, *ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/cuda/*"), *HOST.glob("*")}):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _compile(sources: list[Path], kernels: Path, folder: Path, flags: tuple[str, ...]) -> None:
    includes = [f"-I{path}" for path in (HOST, ROOT / "csrc", kernels)]

    def compile_one(source: Path) -> None:
        _run(["g++", *flags, *includes, "-x", "c++", "-c", str(source), "-o", str(folder / f"{source.stem}.o")])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, sources))


def build(
    name: str, entry: Path, flags: tuple[str, ...] = (), link: tuple[str, ...] = (), fault: Fault | None = None
) -> Path:
    """Compile the kernels, the stand-in runtime and ``entry`` with the same flags and link them into one file.

    With a fault, one kernel is compiled anew from a copy that has it; the rest is that of the faultless build.
    """
    faultless = build(name, entry, flags, link).parent if fault else None
    folder = CACHE / _key(name, flags, link, fault, sources=[entry])
    with only_here(folder):
        if not (folder / name).exists():
            _build(folder, name, entry, (*FLAGS, *flags), link, fault, faultless)
    return folder / name


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Test processes that run side by side build a folder once; the others wait and find it built."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(
    folder: Path,
    name: str,
    entry: Path,
    flags: tuple[str, ...],
    link: tuple[str, ...],
    fault: Fault | None,
    faultless: Path | None,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    kernels = ROOT / "csrc" / "cuda"
    if fault is None or faultless is None:
        folder.mkdir()
        sources = [kernels / f"{kernel}.cu" for kernel in KERNELS]
        _compile([*sources, HOST / "host_cuda.cpp", entry], kernels, folder, flags)
    else:
        shutil.copytree(faultless, folder, ignore=shutil.ignore_patterns(name))
        planted = shutil.copytree(kernels, folder / "planted")
        source = (planted / fault.file).read_text()
        assert fault.text in source, f"{fault.file} no longer contains {fault.text!r}: the fault would test nothing"
        (planted / fault.file).write_text(source.replace(fault.text, fault.replacement))
        _compile([planted / f"{fault.kernel}.cu"], planted, folder, flags)
    partial = folder / f"{name}.partial"
    _run(["g++", *flags, *link, *map(str, sorted(folder.glob("*.o"))), "-o", str(partial), "-lpthread"])
    partial.rename(folder / name)


def compiled_kernels() -> list[Path]:
    """The objects of csrc/cuda/*.cu as nvcc makes them for the extension, each beside its PTX and ptxas's report."""
    before = Path.cwd()
    with only_here(ROOT / cuda.OBJECTS):
        os.chdir(ROOT)
        try:
            return [ROOT / path for path in cuda.compile_kernels()]
        finally:
            os.chdir(before)


def build_module() -> Path:
    """The module wgan_fast._cuda itself, bindings and all, whose kernels run on host memory."""
    import pybind11

    python = (f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}", "-fvisibility=hidden")
    return build("_cuda.so", ROOT / "csrc" / "cuda" / "bindings.cpp", ("-O1", *python), ("-shared",))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-4000:]}"
