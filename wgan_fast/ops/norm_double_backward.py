"""norm_double_backward: the eager call and the torch.library op."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from wgan_fast.norm_arguments import Inputs, Results
from wgan_fast.ops.dispatch import laid_out_as, serving


def norm_double_backward(inputs: Inputs, num_groups: int, needed: tuple[bool, bool, bool], backend: str) -> Results:
    """The results that are ``needed``, None for the others; ``grad_output`` may be None where only the first is.

    ``inputs`` are the tensors in the order of ``reference.norm_double_backward``. The reference's results are
    differentiable, to any order; those of the other backends are not.
    """
    launch = serving(backend, *(tensor for tensor in inputs if tensor is not None)).norm_double_backward
    return cast(Results, launch(*inputs, num_groups=num_groups, needed=needed))


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
    inputs = (x, mean, rstd, weight, grad_output, grad_grad_input)
    needed = (True, True, weight is not None)
    to_output, to_x, to_weight = norm_double_backward(inputs, num_groups, needed, backend)
    return laid_out_as(x, to_output), laid_out_as(x, to_x), rstd.new_empty(0) if to_weight is None else to_weight


@_norm_double_backward_op.register_fake
def _(x: Tensor, mean: Tensor | None, rstd: Tensor, weight: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    to_weight = rstd.new_empty(0) if weight is None else weight.new_empty(weight.shape)
    return torch.empty_like(x), torch.empty_like(x), to_weight
