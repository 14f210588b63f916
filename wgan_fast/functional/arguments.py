"""What the validation of several operations shares: the dtypes they take, and how a tensor is described."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
DTYPE_NAMES = "float32, float64, bfloat16 or float16"
PLAIN_TYPES = frozenset({Tensor, nn.Parameter})


def needs_reference(*tensors: Tensor) -> bool:
    """True where a kernel must not look at addresses: tensor subclasses and torch.func transforms."""
    return not PLAIN_TYPES.issuperset(map(type, tensors)) or torch._C._are_functorch_transforms_active()


def describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
