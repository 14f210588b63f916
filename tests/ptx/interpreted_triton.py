"""A driver for Triton that compiles for sm_90 and hands every launch to the PTX interpreter.

It stands where the CUDA driver does, so what is compiled, kept, specialised and launched is what a GPU would get.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from interpreter import Kernel, Module
from operation_memory import allocation, allocations_now
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.cache import get_cache_manager

ARCHITECTURE = 90
launched: list[str] = []  # the names of the kernels, in order


@functools.cache
def _kernel(ptx: str, name: str) -> Kernel:
    return Module(ptx).kernel(name)


class Launcher:
    """Made by Triton for each compiled kernel, and called for each launch."""

    def __init__(self, src: Any, metadata: Any) -> None:
        path = get_cache_manager(metadata.hash).get_file(f"{metadata.name[:150]}.ptx")
        self.kernel = _kernel(Path(path).read_text(), metadata.name)
        self.threads = metadata.num_warps * metadata.warp_size
        self.shared = metadata.shared
        self.passed = [kind != "constexpr" for kind in src.signature.values()]
        self.names = list(src.signature)

    def __call__(
        self, x: int, y: int, z: int, stream: Any, function: Any, packed: Any, metadata: Any, enter: Any, leave: Any,
        *arguments: Any,
    ) -> None:  # fmt: skip
        assert (y, z) == (1, 1), "a grid of one dimension"
        named = zip(self.names, arguments, strict=True)
        named = [pair for pair, passed in zip(named, self.passed, strict=True) if passed]
        values = [value.data_ptr() if isinstance(value, Tensor) else value for _, value in named]
        scratch = [0] * (len(self.kernel.parameters) - len(values))  # Triton's own, which nothing here uses
        mine = [allocation(name, value) for name, value in named if isinstance(value, Tensor)]
        launched.append(self.kernel.name)
        allocations = [*mine, *allocations_now()]
        self.kernel.launch(x, self.threads, self.kernel.pack([*values, *scratch]), allocations, self.shared)


class _Utils:
    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        return (None, None, 0, 0, 1024)  # module, function, registers, spills, most threads

    def unload_module(self, module: Any) -> None:
        pass

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}


class Driver:
    launcher_cls = Launcher
    utils = _Utils()

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", ARCHITECTURE, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None) -> int:
        return 0
