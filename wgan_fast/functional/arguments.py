"""What several operations ask of a tensor before they take it, and how an error message describes one."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_fast.dtypes import PLAIN_TYPES


def needs_reference(*tensors: Tensor) -> bool:
    """True where a kernel must not look at addresses: tensor subclasses and torch.func transforms."""
    return not PLAIN_TYPES.issuperset(map(type, tensors)) or torch._C._are_functorch_transforms_active()


def describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
