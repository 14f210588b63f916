"""A piecewise-linear operation for autograd, without the zeros that eager's double backward carries.

Where y = f(x) is piecewise linear, its backward is grad -> J(x)ᵀ grad with a Jacobian J that is constant
almost everywhere. Eager autograd still differentiates that with respect to x: a tensor of zeros, which then
travels through a whole backward pass of everything before f. Here the backward is eager's own, on detached
tensors: J is a constant to autograd, and that pass is left out. The derivative with respect to grad is eager's,
to any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from wgan_fast.double_backward.shared_pass import current_pass
from wgan_fast.double_backward.zero_gradients import keep_zero_gradients

Forward: TypeAlias = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""x -> (y, what the backward needs). These are the tensors that eager saves, so that memory is the same and a
later change in place raises in the same cases. When y is x itself, the operation was in place."""

Backward: TypeAlias = Callable[..., Tensor]
"""(gradient with respect to y, *what was saved) -> gradient with respect to x."""


class _PiecewiseLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Forward, backward: Backward) -> Tensor:
        # Otherwise autograd would turn each absent gradient back into zeros, and the pass would take place.
        ctx.set_materialize_grads(False)
        ctx.visit, ctx.shared = None, current_pass.get()
        ctx.formula = backward
        y, saved = forward(x)
        if y is x:
            ctx.mark_dirty(x)
        ctx.save_for_backward(*saved)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        saved = ctx.saved_tensors
        result = ctx.formula(grad, *(tensor.detach() for tensor in saved))
        if torch.is_grad_enabled():
            result = keep_zero_gradients(ctx, result, saved[0])
        return result, None, None


piecewise_linear: Callable[[Tensor, Forward, Backward], Tensor] = _PiecewiseLinear.apply
