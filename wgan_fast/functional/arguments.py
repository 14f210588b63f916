"""What several operations ask of a tensor before they take it, and how an error message describes one."""

from __future__ import annotations

from torch import Tensor

from wgan_fast.memory_layout import has_addresses


def needs_reference(*tensors: Tensor) -> bool:
    """True where a kernel must not look at addresses: tensor subclasses and torch.func transforms."""
    return not has_addresses(*tensors)


def describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
