"""How a tensor is laid out in memory: what a kernel that gets only addresses and sizes has to know."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_fast.dtypes import PLAIN_TYPES


def has_addresses(*tensors: Tensor) -> bool:
    """True where a kernel may use addresses: not a subclass's, nor under ``torch.func``, nor batched."""
    return (
        PLAIN_TYPES.issuperset(map(type, tensors))
        and not torch._C._are_functorch_transforms_active()
        and not any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))  # of is_grads_batched
    )


def is_dense(tensor: Tensor) -> bool:
    """True where the elements fill one block of memory without gaps or overlaps, in whatever order.

    Contiguous, channels_last and transposed tensors are dense; ``x[:, ::2]`` and expanded tensors are not.
    """
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def has_overlap(tensor: Tensor) -> bool:
    """True where two indices are known to share an address, as in an expanded tensor."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def has_dense_samples(tensor: Tensor) -> bool:
    """True where every sample (index of the first dimension) is one block and the blocks follow one another."""
    if tensor.is_contiguous():
        return True
    batch = tensor.shape[0]
    return batch > 0 and tensor.stride(0) == tensor.numel() // batch and is_dense(tensor)


def dense_alike(first: Tensor, second: Tensor, third: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors, of one shape, as blocks of memory whose elements correspond; others are copied."""
    if not is_dense(first):
        first = first.contiguous()
    return first, _laid_out_as(first, second), None if third is None else _laid_out_as(first, third)


def _laid_out_as(first: Tensor, other: Tensor) -> Tensor:
    if first.is_contiguous():
        return other.contiguous()
    return other if other.stride() == first.stride() else torch.empty_like(first).copy_(other)


def address(tensor: Tensor | None) -> int:
    """Where a tensor's memory begins; 0 where there is none."""
    return 0 if tensor is None else tensor.data_ptr()
