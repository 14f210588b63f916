"""Checks of tensor arguments that several operations share, and how an error message describes a tensor."""

from __future__ import annotations

from torch import Tensor

from wgan_fast.memory_layout import has_addresses


def needs_reference(*tensors: Tensor) -> bool:
    """True where a kernel must not use addresses: tensor subclasses and torch.func transforms."""
    return not has_addresses(*tensors)


def describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
