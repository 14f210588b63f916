"""wgan_fast._cuda as it is shipped, over a runtime that hands every launch to the PTX interpreter.

The objects that nvcc made for the extension, kernels and host launchers, are linked with the bindings and with
host_runtime.cpp. So grids, blocks and parameters (tables of 4 KB passed by value among them) are the launchers' own.
The PTX is the one that the extension carries for architectures after sm_90.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from interpreter import Kernel, Module
from operation_memory import allocations_now

from build_tools import cuda
from tests.cuda.host_build import ROOT, compiled_kernels, only_here

HERE = Path(__file__).resolve().parent
CACHE = ROOT / "build" / "ptx-cuda"
BINDINGS = Path("csrc/cuda/bindings.cpp")

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


def _key(objects: list[Path]) -> str:
    # The folder of an object is named after what it was made from.
    names = [path.parent.name for path in objects]
    digest = hashlib.sha256(repr([names, sysconfig.get_config_var("EXT_SUFFIX")]).encode())
    for path in sorted(
        {*ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/cuda/*.*h"), ROOT / BINDINGS, HERE / "host_runtime.cpp"}
    ):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build() -> tuple[Path, list[str]]:
    """The extension, and the PTX of every kernel file; kept under a hash of what they are made from."""
    objects = compiled_kernels()
    module = CACHE / _key(objects) / "_cuda.so"
    with only_here(module.parent):
        if not module.exists():
            _build(module, objects)
    return module, [next(path.parent.glob("*.compute_90.ptx")).read_text() for path in objects]


def _build(module: Path, objects: list[Path]) -> None:
    import pybind11

    nvcc = cuda.find_nvcc()
    assert nvcc is not None
    include, _ = cuda.folders(nvcc)
    folder = module.parent
    folder.mkdir(exist_ok=True)
    python = [pybind11.get_include(), sysconfig.get_paths()["include"], str(include), "csrc", "csrc/cuda"]
    host = ["g++", "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", *(f"-I{path}" for path in python)]
    sources = [ROOT / BINDINGS, HERE / "host_runtime.cpp"]
    made = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda source, output: _run([*host, "-c", str(source), "-o", str(output)]), sources, made))
    _run(["g++", "-shared", "-o", str(folder / "partial.so"), *map(str, [*objects, *made])])
    (folder / "partial.so").rename(module)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(command)}\n{(done.stderr or done.stdout)[-4000:]}"


class Runtime:
    """The extension, its PTX and the names of the kernels launched so far."""

    def __init__(self, module: Path, ptx: list[str]) -> None:
        self.launched: list[str] = []
        self.change: Callable[[str], str] = lambda ptx: ptx
        self.kernels: dict[str, Kernel] = {}
        self.ptx = ptx
        # Under its own name pybind11 would hand out the real module, where that has been imported.
        spec = importlib.util.spec_from_file_location("ptx_cuda._cuda", module)
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
