"""How csrc/cuda becomes the extension wgan_fast._cuda: nvcc compiles the kernels, the C++ compiler the binding.

The CUDA runtime is linked statically, so the module imports on machines without CUDA and beside any torch. Neither a
GPU nor a driver is needed to build it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NAME = "wgan_fast._cuda"
# Machine code for A100 and H100 (and their relatives of the same major version), PTX for what comes after them.
TARGETS = ["arch=compute_80,code=sm_80", "arch=compute_90,code=[sm_90,compute_90]"]
OBJECTS = Path("build", "cuda")
FLAGS = ["-std=c++17", "-O3", "-Icsrc", "-Icsrc/cuda", "-Xcompiler=-fPIC,-fvisibility=hidden"]
# What the tests read: nvcc's PTX, and ptxas's report on the machine code. Other intermediate files are not kept.
EXTRAS = ["-Xptxas=-v", "--keep", "--keep-dir"]
KEPT = (".o", ".ptx", ".txt")


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, of PATH, or where the toolkit installs itself."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    candidates = [shutil.which("nvcc", path=os.path.join(home, "bin")) for home in homes]
    candidates += [shutil.which("nvcc"), shutil.which("nvcc", path="/usr/local/cuda/bin")]
    return next(filter(None, candidates), None)


def folders(nvcc: str) -> tuple[Path | None, Path | None]:
    """Where the toolkit of this nvcc keeps its headers and its static runtime; nvcc itself may be a script."""
    plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True).stderr
    home = next((line.partition("TOP=")[2] for line in plan.splitlines() if "TOP=" in line), Path(nvcc).parent.parent)
    roots = [Path(home), Path(home, "targets", "x86_64-linux"), Path("/usr")]
    includes = [root / "include" for root in roots]
    libraries = [root / name for root in roots for name in ("lib64", "lib", "lib/x86_64-linux-gnu")]
    return _first(includes, "cuda_runtime.h"), _first(libraries, "libcudart_static.a")


def _first(folders: list[Path], name: str) -> Path | None:
    return next((folder.resolve() for folder in folders if (folder / name).exists()), None)


def missing() -> str | None:
    """The reason why the kernels cannot be built here, or None."""
    nvcc = find_nvcc()
    if nvcc is None:
        return "nvcc of the CUDA toolkit was not found (looked in CUDA_HOME, on PATH and in /usr/local/cuda)"
    include, library = folders(nvcc)
    if include is None or library is None:
        absent = "cuda_runtime.h" if include is None else "libcudart_static.a"
        return f"{absent} was not found beside {nvcc}: the toolkit is not complete"
    return None


def extension(kind: type[Extension], optional: bool) -> Extension:
    """The extension without its kernels, which BuildWithNvcc adds."""
    nvcc = find_nvcc()
    assert nvcc is not None
    include, library = folders(nvcc)
    return kind(
        NAME,
        ["csrc/cuda/bindings.cpp"],
        include_dirs=["csrc", "csrc/cuda", str(include)],
        depends=[str(path) for path in sorted(Path("csrc").glob("**/*"))],
        extra_compile_args=["-std=c++17", "-O2"],
        library_dirs=[str(library)],
        libraries=["cudart_static", "rt", "pthread", "dl"],
        optional=optional,
    )


def compile_kernels(folder: Path = OBJECTS) -> list[str]:
    """One object file per kernel file of csrc/cuda, largest file first. What was compiled from the same bytes is kept.

    Each lies in a folder of its own, beside its PTX (``*.compute_90.ptx``) and ptxas's report (``ptxas.txt``).
    """
    nvcc = find_nvcc()
    assert nvcc is not None
    folder.mkdir(parents=True, exist_ok=True)
    command = [nvcc, *FLAGS, *(f"-gencode={target}" for target in TARGETS), "-c"]
    shared = _digest([*command[1:], *EXTRAS, _release(nvcc)], sorted(Path("csrc").glob("**/*.*h")))

    def compile_one(source: Path) -> str:
        # By content, not by age: a checkout, or a copy to another machine, makes every source new.
        kept = folder / f"{source.stem}-{_digest([shared], [source])}"
        if not kept.exists():
            unfinished = kept.with_suffix(f".{os.getpid()}")
            unfinished.mkdir()
            made = [str(source), "-o", str(unfinished / f"{source.stem}.o"), *EXTRAS, str(unfinished)]
            done = subprocess.run([*command, *made], capture_output=True, text=True)
            if done.returncode != 0:
                shutil.rmtree(unfinished)
                raise CompileError(f"nvcc could not compile {source}:\n{(done.stderr or done.stdout)[-4000:]}")
            (unfinished / "ptxas.txt").write_text(done.stderr)
            for path in unfinished.iterdir():
                if path.suffix not in KEPT:
                    path.unlink()
            for old in folder.glob(f"{source.stem}-*"):
                if old != unfinished:
                    shutil.rmtree(old, ignore_errors=True)
            unfinished.replace(kept)
        return str(kept / f"{source.stem}.o")

    # The largest takes longest: started last, it would run alone.
    sources = sorted(Path("csrc/cuda").glob("*.cu"), key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def _release(nvcc: str) -> str:
    return subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout


def _digest(texts: list[str], files: list[Path]) -> str:
    digest = hashlib.sha256("\0".join(texts).encode())
    for file in files:
        digest.update(f"\0{file}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


class BuildWithNvcc(build_ext):  # type: ignore[misc]
    """Compiles the kernels of the one extension that has some before the rest of it."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name == NAME:
            ext.extra_objects = compile_kernels()
        super().build_extension(ext)
