"""norm_double_backward: the eager call and the torch.library op."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from wgan_fast.backends import choose
from wgan_fast.memory_layout import has_addresses


def norm_double_backward(
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    grad_output: Tensor | None,
    grad_grad_input: Tensor,
    num_groups: int,
    needed: tuple[bool, bool, bool],
    backend: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The results that are ``needed``, None for the others; ``grad_output`` may be None where only the first is.

    The reference's are differentiable, to any order; those of the other backends are not.
    """
    if not has_addresses(x, grad_grad_input, *(t for t in (weight, grad_output) if t is not None)):
        backend = "reference"
    launch = choose(x.device.type, backend).norm_double_backward
    results = launch(x, mean, rstd, weight, grad_output, grad_grad_input, num_groups=num_groups, needed=needed)
    return cast(tuple[Tensor | None, Tensor | None, Tensor | None], results)


@torch.library.custom_op("wgan_fast::norm_double_backward", mutates_args=())
def _norm_double_backward_op(
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    grad_output: Tensor,
    grad_grad_input: Tensor,
    num_groups: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Without a weight the last result is empty: an operator returns no None."""
    needed = (True, True, weight is not None)
    to_output, to_x, to_weight = norm_double_backward(
        x, mean, rstd, weight, grad_output, grad_grad_input, num_groups, needed, backend
    )
    assert to_output is not None
    assert to_x is not None
    return _as_the_fake(to_output, x), _as_the_fake(to_x, x), rstd.new_empty(0) if to_weight is None else to_weight


def _as_the_fake(result: Tensor, x: Tensor) -> Tensor:
    """Laid out as the fake implementation says, whatever the backend makes of tensors that are not dense."""
    laid_out = torch.empty_like(x)
    return result if result.stride() == laid_out.stride() else laid_out.copy_(result)


@_norm_double_backward_op.register_fake
def _(
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    grad_output: Tensor,
    grad_grad_input: Tensor,
    num_groups: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    to_weight = rstd.new_empty(0) if weight is None else weight.new_empty(weight.shape)
    return torch.empty_like(x), torch.empty_like(x), to_weight
