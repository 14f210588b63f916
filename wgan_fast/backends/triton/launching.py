"""How a kernel is started: on the tensor's device, from a compiled kernel that is kept.

Triton's own launch path looks at every argument, each time, in Python. Here the constants of a launch alone
decide which compiled kernel serves it (the kernels forbid specialisation on other arguments), so that a
second launch goes straight to what the first has compiled. Holding it also keeps the code loaded that a CUDA
graph replays.
"""

from __future__ import annotations

from typing import Any

import torch

ALIGNMENT = 16  # bytes: the widest access of a thread

# No contraction of products and sums: the roundings of the other backends, and the kernels wait for memory
# anyway. Set because Triton's default differs between releases.
ENABLE_FP_FUSION = False

_compiled: dict[tuple[Any, ...], Any] = {}


def launch(
    kernel: Any,
    programs: int,
    device: torch.device,
    warps: int,
    arguments: tuple[Any, ...],
    constants: tuple[Any, ...],
) -> None:
    """Run ``programs`` programs of ``kernel(*arguments, *constants)`` on the current stream of ``device``."""
    if programs == 0:
        return
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(kernel, programs, device, warps, arguments, constants)
        return
    key = (kernel.__name__, device.index, warps, constants)
    held = _compiled.get(key)
    try:
        if held is not None:
            held[(programs, 1, 1)](*arguments, *constants)
            return
        options = {"num_warps": warps, "enable_fp_fusion": ENABLE_FP_FUSION}
        held = kernel[(programs,)](*arguments, *constants, **options)
    except Exception as error:
        raise RuntimeError(f"Triton could not compile or launch {kernel.__name__} on {device}: {error}") from error
    if held is not None:  # None: the interpreter
        _compiled[key] = held


def is_capturing(device: torch.device) -> bool:
    """True while a CUDA graph is being recorded on the current stream."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
