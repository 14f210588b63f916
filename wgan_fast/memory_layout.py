"""How a tensor is laid out in memory: what a kernel that gets only addresses and sizes has to know."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from wgan_fast.dtypes import PLAIN_TYPES, accumulation_dtype, dtype_of


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


def lie_alike(tensors: Sequence[Tensor]) -> bool:
    """True where a kernel can walk over all as over flat blocks: plain, one dtype, one device, dense, in one order."""
    first = tensors[0]
    if type(first) not in PLAIN_TYPES:
        return False
    if any(other.dtype != first.dtype or other.device != first.device for other in tensors):
        return False
    if first.is_contiguous():
        return all(other.is_contiguous() for other in tensors)
    return is_dense(first) and all(other.stride() == first.stride() for other in tensors)


def contiguous_alike(lists: Sequence[Sequence[Tensor]]) -> bool:
    """True in the usual case of parallel lists: contiguous tensors, those of one position of one dtype.

    Decided list by list: for a hundred positions a loop over `lie_alike` would cost three times this.
    """
    first, *others = lists
    dtypes = list(map(dtype_of, first)) if others else []
    return (
        PLAIN_TYPES.issuperset(map(type, first))
        and all(all(map(Tensor.is_contiguous, tensors)) for tensors in lists)
        and all(list(map(dtype_of, tensors)) == dtypes for tensors in others)
    )


def divided(lists: Sequence[Sequence[Tensor]], taken: Sequence[bool]) -> tuple[list[Sequence[Tensor]], list[int]]:
    """Parallel lists of what is taken, and the positions of the rest."""
    rest = [i for i, usable in enumerate(taken) if not usable]
    return [list(itertools.compress(tensors, taken)) for tensors in lists], rest


def interpolation_operands(
    real: Tensor, fake: Tensor, alpha: Tensor, out: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and result of ``interpolate``, sample after sample in one order; the result is ``out`` where that fits."""
    if not (real.is_contiguous() and fake.is_contiguous()):
        real = real if has_dense_samples(real) else real.contiguous()
        fake = fake if fake.stride() == real.stride() else torch.empty_like(real).copy_(fake)
    if out is None or out.stride() != real.stride() or any(_is_shifted(out, source) for source in (real, fake)):
        out = torch.empty_like(real)
    return real, fake, alpha.contiguous(), out


def _is_shifted(block: Tensor, other: Tensor) -> bool:
    """True where two blocks of one size overlap but are not the same: to write one changes the other unread."""
    return 0 < abs(block.data_ptr() - other.data_ptr()) < other.numel() * other.element_size()


def penalty_operands(
    gradients: Tensor, reduction: str, with_slope: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Input and results of ``gradient_norm_penalty``, sample after sample: gradients, slope, norms, value."""
    if not has_dense_samples(gradients):
        gradients = gradients.contiguous()
    batch, device, wide = gradients.shape[0], gradients.device, accumulation_dtype(gradients.dtype)
    norms = torch.empty(batch, dtype=wide, device=device)
    value = torch.empty((batch,) if reduction == "none" else (), dtype=wide, device=device)
    return gradients, torch.empty_like(gradients) if with_slope else None, norms, value


def address(tensor: Tensor | None) -> int:
    """Where a tensor's memory begins; 0 where there is none."""
    return 0 if tensor is None else tensor.data_ptr()
