"""activation_double_backward: the eager call and the torch.library op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from wgan_fast.backends import choose
from wgan_fast.memory_layout import has_addresses


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
    if not has_addresses(*tensors):
        backend = "reference"
    launch = choose(saved.device.type, backend).activation_double_backward
    results = launch(saved, grad_output, grad_grad_input, activation=activation, options=options, needed=needed)
    return cast(tuple[Tensor | None, Tensor | None], results)


@torch.library.custom_op("wgan_fast::activation_double_backward", mutates_args=())
def _activation_double_backward_op(
    saved: Tensor,
    grad_output: Tensor,
    grad_grad_input: Tensor,
    activation: str,
    options: Sequence[float],
    backend: str,
) -> tuple[Tensor, Tensor]:
    results = activation_double_backward(
        saved, grad_output, grad_grad_input, activation, options, (True, True), backend
    )
    return _as_the_fake(results[0], saved), _as_the_fake(results[1], saved)


def _as_the_fake(result: Tensor | None, saved: Tensor) -> Tensor:
    """Laid out as the fake implementation says, whatever the backend makes of tensors that are not dense."""
    assert result is not None
    laid_out = torch.empty_like(saved)
    return result if result.stride() == laid_out.stride() else laid_out.copy_(result)


@_activation_double_backward_op.register_fake
def _(
    saved: Tensor,
    grad_output: Tensor,
    grad_grad_input: Tensor,
    activation: str,
    options: Sequence[float],
    backend: str,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(saved), torch.empty_like(saved)
