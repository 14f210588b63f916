"""Kernels over a batch of equal rows: how long rows are split, and 128-bit accesses.

The alignment of an access is checked on the host and declared in the kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from wgan_fast.backends.triton.launching import ALIGNMENT


def vector_length(size: int, *tensors: Tensor) -> int:
    """Elements in a 128-bit access where all rows of ``size`` elements begin on 16 bytes, else 1."""
    length = ALIGNMENT // tensors[0].element_size()
    if size % length or any(tensor.data_ptr() % ALIGNMENT for tensor in tensors):
        return 1
    return length


def split_rows(rows: int, size: int, step: int, programs: int) -> tuple[int, int]:
    """(splits of a row, elements in each): whole steps, and about ``programs`` programs for all rows together."""
    splits = min(triton.cdiv(size, step), triton.cdiv(programs, rows))
    span = triton.cdiv(triton.cdiv(size, splits), step) * step
    return triton.cdiv(size, span), span


@triton.jit
def row_pointers(base: tl.tensor, offsets: tl.tensor, VECTOR: tl.constexpr) -> tl.tensor:
    # Triton ignores an alignment hint on an argument of a function: it has to be given on the sum.
    return tl.multiple_of(base + offsets, 16 if VECTOR > 1 else 1)


@triton.jit
def elements_left(start: tl.tensor, size: tl.tensor, LIMIT: tl.constexpr, VECTOR: tl.constexpr) -> tl.tensor:
    """min(size - start, LIMIT) as int32, where it cannot overflow: what a mask compares columns with."""
    return tl.multiple_of(tl.minimum(size - start, LIMIT).to(tl.int32), VECTOR)
