"""The arithmetic of the networks: torch's own, fp32, tf32, or autocast to bf16 or fp16.

Weights, optimizer states, averages, losses and the penalty's own arithmetic are fp32 throughout; what changes is the
matrix products and convolutions of the two networks.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch.amp import GradScaler

PrecisionName = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

AUTOCAST: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The type to which autocast takes the operations that it lowers; none for the others."""

NEEDS_CUDA = {
    "tf32": "it is a mode of NVIDIA's tensor cores",
    "fp16": "a CPU multiplies fp16 matrices a hundred times more slowly than fp32; bf16 is its 16-bit type",
}
"""The precisions that a CPU does not support, and why."""


def autocast(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to ``dtype``; nothing where that is None."""
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype)


def make_scaler(precision: PrecisionName, device: torch.device) -> GradScaler | None:
    """The loss scaling that fp16 needs, one per network: its range ends at 6e-8, bf16 has that of fp32."""
    return GradScaler(device.type) if precision == "fp16" else None


def emulated(precision: PrecisionName, device: torch.device) -> bool:
    """Whether this CPU has no instructions for bf16 products, which then take about 20 times as long as fp32's.

    False where torch cannot tell: processors other than x86, and versions of torch without the query.
    """
    if precision != "bf16" or device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    asked = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return None not in asked and not any(question() for question in asked if question is not None)


@contextlib.contextmanager
def float32_products(precision: PrecisionName, device: torch.device) -> Iterator[None]:
    """fp32 matrix products and convolutions on CUDA: in full fp32, or with inputs of 10 bits of mantissa for tf32.

    "auto" changes nothing: torch's default is TF32 for cuDNN's convolutions and fp32 for matrices. The settings are
    global, and restored.
    """
    if device.type != "cuda" or precision == "auto":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    places: tuple[Any, ...]
    if hasattr(matmul, "fp32_precision"):
        places, name = (matmul, cudnn.conv, cudnn.rnn), "fp32_precision"
        wanted: Any = "tf32" if precision == "tf32" else "ieee"
    else:  # torch before 2.9
        places, name, wanted = (matmul, cudnn), "allow_tf32", precision == "tf32"
    before = [getattr(place, name) for place in places]
    for place in places:
        setattr(place, name, wanted)
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)
