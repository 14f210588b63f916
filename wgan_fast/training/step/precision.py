"""The arithmetic of the networks: fp32, tf32, or autocast to bf16 or fp16.

Weights, optimizer states, averages, losses and the penalty's own arithmetic are fp32 throughout; what changes is the
matrix products and convolutions of the two networks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch.amp import GradScaler

PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]

AUTOCAST: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The type to which autocast takes the operations that it lowers; none for the others."""

NEEDS_CUDA = {
    "tf32": "it is a mode of NVIDIA's tensor cores",
    "fp16": "a CPU multiplies fp16 matrices a hundred times more slowly than fp32; bf16 is its 16-bit type",
}
"""The precisions that a CPU cannot serve, and why."""


def autocast(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to ``dtype``; nothing where that is None."""
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype)


def make_scaler(precision: PrecisionName, device: torch.device) -> GradScaler | None:
    """The loss scaling that fp16 needs, one for each network: its range ends at 6e-8, bf16 has that of fp32."""
    return GradScaler(device.type) if precision == "fp16" else None


@contextlib.contextmanager
def float32_products(precision: PrecisionName, device: torch.device) -> Iterator[None]:
    """Products of fp32 matrices and convolutions in full fp32 or, for tf32, with inputs of 10 bits of mantissa.

    cuDNN's convolutions use TF32 unless told otherwise: "fp32" tells them. The settings are global, and restored.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value
