"""What the validation of several operations shares: the dtypes they take, and how a tensor is described."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_fast.memory_layout import has_addresses

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
DTYPE_NAMES = "float32, float64, bfloat16 or float16"


def needs_reference(*tensors: Tensor) -> bool:
    """True where a kernel must not look at addresses: tensor subclasses and torch.func transforms."""
    return not has_addresses(*tensors)


def describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
