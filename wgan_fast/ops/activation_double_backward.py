"""activation_double_backward: the eager call and the torch.library op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from wgan_fast.ops.dispatch import laid_out_as, serving


def activation_double_backward(
    saved: Tensor,
    grad_output: Tensor | None,
    grad_grad_input: Tensor,
    activation: str,
    options: Sequence[float],
    needed: tuple[bool, bool],
    backend: str,
) -> tuple[Tensor | None, Tensor | None]:
    """The results that are ``needed``, None for the other; ``grad_output`` may be None where the second is not.

    The reference's are differentiable, to any order; those of the other backends are not.
    """
    tensors = (saved, grad_grad_input) if grad_output is None else (saved, grad_output, grad_grad_input)
    launch = serving(backend, *tensors).activation_double_backward
    results = launch(saved, grad_output, grad_grad_input, activation=activation, options=options, needed=needed)
    return cast("tuple[Tensor | None, Tensor | None]", results)


@torch.library.custom_op("wgan_fast::activation_double_backward", mutates_args=())
def _activation_double_backward_op(
    saved: Tensor,
    grad_output: Tensor,
    grad_grad_input: Tensor,
    activation: str,
    options: Sequence[float],
    backend: str,
) -> tuple[Tensor, Tensor]:
    to_output, to_saved = activation_double_backward(
        saved, grad_output, grad_grad_input, activation, options, (True, True), backend
    )
    return laid_out_as(saved, to_output), laid_out_as(saved, to_saved)


@_activation_double_backward_op.register_fake
def _(saved: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(saved), torch.empty_like(saved)
