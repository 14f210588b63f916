"""The arithmetic that several kernels share, as ``csrc/rules.h`` has it for the compiled backends.

Comparisons and ``tl.where`` instead of ``tl.clamp``, ``tl.minimum`` and ``tl.maximum``, which drop NaN.
Scalars arrive as Python's doubles and are rounded to the type of the arithmetic with ``scalar``, once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from wgan_fast.dtypes import accumulation_dtype

DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
WIDE = {dtype: DTYPES[accumulation_dtype(dtype)] for dtype in DTYPES}


def block_of(elements: int, dtype: torch.dtype) -> int:
    """Elements a program takes: half as many in fp64, which needs twice the registers."""
    return elements // 2 if dtype == torch.float64 else elements


@triton.jit
def scalar(value: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    return tl.full((), value, DTYPE)


@triton.jit
def clamp(values: tl.tensor, lo: tl.tensor, hi: tl.tensor, DTYPE: tl.constexpr, WIDE: tl.constexpr) -> tl.tensor:
    # False for NaN and for -0.0 against 0.0: both stay bit for bit, as the choice is between narrow values.
    lowest = scalar(lo, WIDE).to(DTYPE)
    highest = scalar(hi, WIDE).to(DTYPE)
    wide = values.to(WIDE)
    raised = tl.where(wide < lowest.to(WIDE), lowest, values)
    return tl.where(wide > highest.to(WIDE), highest, raised)


@triton.jit
def lerp(start: tl.tensor, end: tl.tensor, weight: tl.tensor) -> tl.tensor:
    # Anchored at the nearer end, as torch.lerp: exact at 0 and at 1.
    span = end - start
    return tl.where(tl.abs(weight) < 0.5, start + weight * span, end - span * (1 - weight))


@triton.jit
def divide(numerator: tl.tensor, denominator: tl.tensor) -> tl.tensor:
    # The plain operators are approximate in fp32 (2 ulp, subnormal square roots flushed to zero).
    return tl.div_rn(numerator, denominator) if numerator.dtype == tl.float32 else numerator / denominator


@triton.jit
def square_root(value: tl.tensor) -> tl.tensor:
    return tl.sqrt_rn(value) if value.dtype == tl.float32 else tl.sqrt(value)
