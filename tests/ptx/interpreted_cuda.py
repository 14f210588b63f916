"""wgan_fast._cuda as it is shipped, over a runtime that hands every launch to the PTX interpreter.

nvcc compiles the kernels with their host launchers, for sm_90 as PTX; they are linked with the bindings and with
host_runtime.cpp. So grids, blocks and parameters (tables of 4 KB passed by value among them) are the launchers' own.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from interpreter import Kernel, Module
from operation_memory import allocations_now

from build_tools import cuda
from tests.cuda.host_build import ROOT, only_here

HERE = Path(__file__).resolve().parent
CACHE = ROOT / "build" / "ptx-cuda"
TARGET = ("-gencode=arch=compute_90,code=compute_90",)

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
    ctypes.c_size_t,
)


def _key(flags: Iterable[str]) -> str:
    digest = hashlib.sha256(repr(tuple(flags)).encode())
    sources = {*ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/cuda/*"), HERE / "host_runtime.cpp", Path(cuda.__file__)}
    for path in sorted(sources):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build() -> Path:
    """A folder with _cuda.so and the PTX of every kernel file; kept under a hash of what they are made from."""
    folder = CACHE / _key(TARGET)
    with only_here(folder):
        if not (folder / "_cuda.so").exists():
            folder.mkdir(exist_ok=True)
            _build(folder)
    return folder


def _build(folder: Path) -> None:
    import pybind11

    nvcc = cuda.find_nvcc()
    assert nvcc is not None
    include, _ = cuda.folders(nvcc)
    python = [pybind11.get_include(), sysconfig.get_paths()["include"], str(include), "csrc", "csrc/cuda"]
    host = ["g++", "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", *(f"-I{path}" for path in python)]

    def compile_one(source: Path) -> None:
        output = ["-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        if source.suffix == ".cu":  # the slow part makes PTX, which --keep leaves behind
            _run([nvcc, *cuda.FLAGS, *TARGET, "--keep", "--keep-dir", str(folder), *output])
        else:
            _run([*host, *output])

    sources = sorted(ROOT.glob("csrc/cuda/*.cu"), key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, [*sources, ROOT / "csrc/cuda/bindings.cpp", HERE / "host_runtime.cpp"]))
    objects = [str(folder / f"{source.stem}.o") for source in sources]
    objects += [str(folder / "bindings.o"), str(folder / "host_runtime.o")]
    _run(["g++", "-shared", "-o", str(folder / "partial.so"), *objects])
    (folder / "partial.so").rename(folder / "_cuda.so")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(command)}\n{(done.stderr or done.stdout)[-4000:]}"


class Runtime:
    """The extension, its PTX and the names of the kernels launched so far."""

    def __init__(self, folder: Path) -> None:
        self.launched: list[str] = []
        self.change: Callable[[str], str] = lambda ptx: ptx
        self.kernels: dict[str, Kernel] = {}
        self.ptx = [path.read_text() for path in sorted(folder.glob("*.ptx"))]
        # Under its own name pybind11 would hand out the real module, where that has been imported.
        spec = importlib.util.spec_from_file_location("ptx_cuda._cuda", folder / "_cuda.so")
        assert spec is not None
        assert spec.loader is not None
        self.extension: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.extension)
        self.callback = _CALLBACK(self._launch)  # must live as long as the extension may call it

    def install(self) -> None:
        ctypes.CDLL(str(self.extension.__file__)).ptx_on_launch(self.callback)

    @contextmanager
    def planted(self, text: str, replacement: str) -> Iterator[None]:
        """With a fault in the PTX of every kernel that contains ``text``."""
        assert any(text in ptx for ptx in self.ptx), f"no kernel contains {text!r}: the fault would test nothing"
        kept, self.kernels = self.kernels, {}
        self.change = lambda ptx: ptx.replace(text, replacement)
        yield
        self.kernels, self.change = kept, lambda ptx: ptx

    def kernel(self, name: str) -> Kernel:
        if name not in self.kernels:
            (ptx,) = (ptx for ptx in self.ptx if f".entry {name}(" in ptx)
            self.kernels[name] = _module(self.change(ptx)).kernel(name)
        return self.kernels[name]

    def _launch(
        self, name: bytes, blocks: int, threads: int, shared: int, addresses: Any, message: int, capacity: int
    ) -> int:
        """An exception cannot cross C: its text becomes the error of the launch."""
        try:
            kernel = self.kernel(name.decode())
            parameters = bytearray(kernel.parameter_bytes)
            for i, (offset, size) in enumerate(kernel.parameters.values()):
                assert size is not None
                parameters[offset : offset + size] = ctypes.string_at(addresses[i], size)
            self.launched.append(kernel.name)
            kernel.launch(blocks, threads, bytes(parameters), allocations_now(), shared)
        except Exception as error:
            text = f"{type(error).__name__}: {error}".encode()[: capacity - 1]
            ctypes.memmove(message, text + b"\0", len(text) + 1)
            return 1
        return 0


@functools.cache
def _module(ptx: str) -> Module:
    return Module(ptx)
