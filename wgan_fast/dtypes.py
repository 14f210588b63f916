"""The dtypes and tensor types that the operations take, and what the kernels call them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

# How the compiled modules are told a dtype: enum DType in csrc/dtypes.h.
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

DTYPES = frozenset(CODES)
DTYPE_NAMES = "float32, float64, bfloat16 or float16"

# Plain tensors. A subclass may not be one block of memory (quantised, distributed, a wrapper of others).
PLAIN_TYPES = frozenset({Tensor, nn.Parameter})

# A function, for `map` over lists of tensors.
dtype_of: Callable[[Tensor], torch.dtype] = operator.attrgetter("dtype")


def codes_of(tensors: Iterable[Tensor]) -> list[int]:
    """The codes of the tensors' dtypes."""
    return list(map(CODES.__getitem__, map(dtype_of, tensors)))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic on values of ``dtype`` is done in: fp64 for fp64, fp32 for the rest."""
    return torch.float64 if dtype == torch.float64 else torch.float32
