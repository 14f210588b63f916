"""What the kernels of ``norm_double_backward`` take: contiguous blocks, statistics and weights in the wide dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wgan_fast.dtypes import accumulation_dtype

Inputs = tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None, Tensor]
Results = tuple[Tensor | None, Tensor | None, Tensor | None]


def norm_inputs(
    x: Tensor, mean: Tensor | None, rstd: Tensor, weight: Tensor | None, grad_output: Tensor | None, v: Tensor
) -> Inputs:
    """The tensors as a kernel reads them, in the order of ``reference.norm_double_backward``."""
    wide = accumulation_dtype(x.dtype)
    return (
        x.contiguous(),
        None if mean is None else mean.to(wide).contiguous(),
        rstd.to(wide).contiguous(),
        None if weight is None else weight.to(wide).contiguous(),
        None if grad_output is None else grad_output.contiguous(),
        v.contiguous(),
    )


def norm_results(inputs: Inputs, needed: Sequence[bool]) -> Results:
    """Room for the gradients with respect to grad_output, x and the weight, those that are needed."""
    x, weight = inputs[0], inputs[3]
    return (
        torch.empty_like(x) if needed[0] else None,
        torch.empty_like(x) if needed[1] else None,
        torch.empty_like(weight) if needed[2] and weight is not None else None,
    )


def norm_shape(x: Tensor) -> tuple[int, int, int]:
    """(samples, channels, positions)."""
    batch, channels = x.shape[:2]
    return batch, channels, math.prod(x.shape[2:])


def as_given(results: Results, x: Tensor, weight: Tensor | None) -> Results:
    """The results laid out as x is, the weight's in its dtype."""
    to_output, to_x, to_weight = results
    if not x.is_contiguous():
        to_output, to_x = (None if t is None else torch.empty_like(x).copy_(t) for t in (to_output, to_x))
    if to_weight is not None and weight is not None:
        to_weight = to_weight.to(weight.dtype)
    return to_output, to_x, to_weight


def chunks_of(batch: int, groups: int, size: int, summed: bool, programs: int) -> tuple[int, int]:
    """(chunks, samples per chunk) that a GPU processes independently: about ``programs`` blocks over all groups.

    Where the weight's gradient is summed, a chunk is at least four samples, unless there are few sums in all. It
    depends on the shape only, so that the bits do not depend on the device.
    """
    chunks = min(batch, max(1, -(-programs // groups)))
    most = max(1, batch // 4, (1 << 18) // (groups * size))
    chunks = min(chunks, most) if summed else min(batch, 8 * chunks)
    per_chunk = -(-batch // chunks)
    return -(-batch // per_chunk), per_chunk


def repeated(weight: Tensor | None, positions: int) -> Tensor | None:
    """A weight per value of a sample."""
    return weight if weight is None or positions == 1 else weight.repeat_interleave(positions)


def folded(values: Tensor, positions: int) -> Tensor:
    """The gradient of what `repeated` was made of."""
    return values if positions == 1 else values.view(-1, positions).sum(1)
