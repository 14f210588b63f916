"""How a kernel is started: on the tensor's device, from a compiled kernel that is kept.

Triton's own launch path inspects every argument in Python at each launch. Here only the constants of a launch
select the compiled kernel, so a second launch reuses what the first has compiled. This is correct only because
``kernel`` forbids Triton to compile any other argument's value into the code. Holding the compiled kernel also
keeps the code loaded that a CUDA graph replays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton

ALIGNMENT = 16  # bytes: the widest access of a thread

# No contraction of products and sums: the roundings of the other backends, and the kernels are bound by memory
# anyway. Set because Triton's default differs between releases.
ENABLE_FP_FUSION = False

_compiled: dict[tuple[Any, ...], Any] = {}


def kernel(function: Callable[..., None]) -> Any:
    """``triton.jit`` for what ``launch`` starts: compiled for its constants, whatever the other arguments are.

    By default Triton treats every integer that is 1 as a constant, and assumes that an integer or address that is
    a multiple of 16 always is one. In a kernel compiled for a batch of 64 and launched on one of 62, four rows then
    share one comparison with the batch size: it reads and writes past the end. Alignment is declared by a constant
    of the launch (``VECTOR``), inside the kernel.
    """
    parameters = inspect.signature(function).parameters.values()
    arguments = [parameter.name for parameter in parameters if "constexpr" not in str(parameter.annotation)]
    return triton.jit(do_not_specialize=arguments)(function)


def launch(kernel: Any, programs: int, warps: int, arguments: tuple[Any, ...], constants: tuple[Any, ...]) -> None:
    """Run ``programs`` programs of ``kernel(*arguments, *constants)``, on the device of the first argument."""
    if programs == 0:
        return
    device = arguments[0].device
    if device.index is not None and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(kernel, programs, warps, arguments, constants)
        return
    key = (kernel.__name__, device.index, warps, constants)
    held = _compiled.get(key)
    try:
        if held is not None:
            # Without a stream, Triton asks its driver for the current device and then for its stream.
            held[(programs, 1, 1)](*arguments, *constants, stream=current_stream(device))
            return
        options = {"num_warps": warps, "enable_fp_fusion": ENABLE_FP_FUSION}
        held = kernel[(programs,)](*arguments, *constants, **options)
    except Exception as error:
        raise RuntimeError(f"Triton could not compile or launch {kernel.__name__} on {device}: {error}") from error
    if held is not None:  # None: the interpreter
        _compiled[key] = held


def is_capturing(device: torch.device) -> bool:
    """True while a CUDA graph is being recorded on the current stream. A device without an index is the host."""
    return device.index is not None and torch.cuda.is_current_stream_capturing()


def current_stream(device: torch.device) -> int:
    """The handle of the current stream. torch.cuda.current_stream() would build an object for it first."""
    return 0 if device.index is None else int(torch._C._cuda_getCurrentRawStream(device.index))
