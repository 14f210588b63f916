"""A stand-in for Triton's driver: ``launch()`` compiles as it would for an H100, and what it would start is recorded.

To be installed in a process of its own, before anything launches: a driver is chosen once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel


class Started(NamedTuple):
    compiled: Any  # triton.compiler.CompiledKernel
    programs: int


class Driver:
    """What ``triton.runtime.driver`` asks on the way to a launch."""

    launcher_cls = None

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def install() -> list[Started]:
    """The list that every later launch is appended to, in place of running."""
    started: list[Started] = []

    def run(compiled: Any) -> Callable[..., None]:
        def start(programs: int, *_: Any) -> None:
            started.append(Started(compiled, programs))

        return start

    triton.runtime.driver.set_active(Driver())
    CompiledKernel._init_handles = lambda compiled: None
    CompiledKernel.run = property(run)
    return started
