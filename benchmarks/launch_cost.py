"""What Python costs per call of the Triton backend, on any machine: ``python -m benchmarks.launch_cost``.

Kernels are compiled as for an H100 and take CPU tensors; starting one does nothing. What is left is all from the public
function to Triton's launcher: validation, dispatch, tables of addresses, the choice of the compiled kernel. On a GPU
the launch itself comes on top, and the questions to torch that only CUDA tensors need.

The time is that of the processor, the least of many short blocks. The numbers of functions entered in Python and of C
functions that Python calls do not depend on the machine: a change is compared by them.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel

import wgan_fast
from benchmarks.workloads import DCGAN_64, weights

CALLS = 10  # of a block: short, so that some blocks are not interrupted
BATCH = 64


def start_nothing() -> None:
    """Make "triton" a backend for CPU tensors, whose launches do nothing."""
    driver = SimpleNamespace(
        launcher_cls=None,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )
    triton.runtime.driver.set_active(driver)
    CompiledKernel._init_handles = lambda compiled: None
    CompiledKernel.run = property(lambda compiled: _nothing)
    with patch.object(torch.cuda, "is_available", return_value=True):
        launchers: Any = importlib.import_module("wgan_fast.backends.triton.launchers")
    launchers.DEVICE_TYPES = ("cpu",)


def _nothing(*_: Any) -> None:
    return


def cases() -> dict[str, Callable[[], object]]:
    """Calls as a user writes them, on the nine weights of a DCGAN critic and on points in the plane."""
    tensors = [weights(DCGAN_64) for _ in range(3)]
    for tensor in itertools.chain.from_iterable(tensors):
        tensor.grad = torch.randn_like(tensor)
    rmsprop = wgan_fast.optim.RMSprop(tensors[0], clip_value=0.01, backend="triton")
    adam = wgan_fast.optim.Adam(tensors[1], backend="triton")
    real, fake, alpha = torch.randn(BATCH, 2), torch.randn(BATCH, 2), torch.rand(BATCH)
    return {
        "clip_weights_": lambda: wgan_fast.clip_weights_(tensors[2], 0.01, backend="triton"),
        "RMSprop.step": rmsprop.step,
        "Adam.step": adam.step,
        "interpolate": lambda: wgan_fast.interpolate(real, fake, alpha, backend="triton"),
        "gradient_norm_penalty": lambda: wgan_fast.gradient_norm_penalty(real, backend="triton"),
    }


def functions(call: Callable[[], object]) -> tuple[int, int]:
    """(functions entered in Python, C functions called from Python)."""
    events: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        events[event] += 1

    sys.setprofile(count)
    call()
    sys.setprofile(None)
    return events["call"], events["c_call"] - 1  # not setprofile


def microseconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - start) / CALLS * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help=f"blocks of {CALLS} calls, in turn over the operations")
    rounds = parser.parse_args().rounds
    start_nothing()
    torch.set_num_threads(1)
    calls = cases()
    for call in calls.values():
        microseconds(call)  # compiles, and builds the tables
    times = [{name: microseconds(call) for name, call in calls.items()} for _ in range(rounds)]
    for name, call in calls.items():
        python, c = functions(call)
        print(f"{name:22} {min(time[name] for time in times):6.1f} us, {python} functions in Python, {c} in C")


if __name__ == "__main__":
    main()
