"""128-bit accesses for kernels over a batch of equal rows: checked on the host, declared in the kernel."""

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


@triton.jit
def row_pointers(base: tl.tensor, offsets: tl.tensor, VECTOR: tl.constexpr) -> tl.tensor:
    # Triton ignores an alignment hint on an argument of a function: it has to be given on the sum.
    return tl.multiple_of(base + offsets, 16 if VECTOR > 1 else 1)


@triton.jit
def elements_left(start: tl.tensor, size: tl.tensor, LIMIT: tl.constexpr, VECTOR: tl.constexpr) -> tl.tensor:
    """min(size - start, LIMIT) as int32, where it cannot overflow: what a mask compares columns with."""
    return tl.multiple_of(tl.minimum(size - start, LIMIT).to(tl.int32), VECTOR)
