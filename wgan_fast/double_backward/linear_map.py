"""Piecewise-linear operations for autograd, without the zeros that eager's double backward carries.

Where y = f(x) is piecewise linear, its backward is grad -> J(x)ᵀ grad with a Jacobian that is constant almost
everywhere. Eager autograd still differentiates that with respect to x: a tensor of zeros, which then travels
through a whole backward pass of everything before f. Here the Jacobian is a constant, and nothing travels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from wgan_fast.double_backward.zero_gradients import keep_zero_gradients

Forward: TypeAlias = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]


class Piece(NamedTuple):
    """One piecewise-linear operation at one call: its value, its transposed Jacobian and its Jacobian."""

    forward: Forward
    """x -> (y, what the Jacobian needs). These are the tensors that eager saves, so that memory is the same
    and a later change in place raises in the same cases. When y is x itself, the operation was in place."""

    pull: Callable[..., Tensor]
    """(gradient with respect to y, *saved) -> gradient with respect to x."""

    push: Callable[..., Tensor]
    """(tangent of x, *saved) -> tangent of y."""


def diagonal(forward: Forward, slope: Callable[..., Tensor]) -> Piece:
    """An elementwise operation: a diagonal Jacobian is its own transpose."""
    return Piece(forward, slope, slope)


# Both Functions must refuse materialised gradients, or autograd would turn each None back into zeros.


class _PiecewiseLinear(Function):
    """y = piece.forward(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, piece: Piece) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.piece = piece
        ctx.visit = None
        y, saved = piece.forward(x)
        if y is x:
            ctx.mark_dirty(x)
        ctx.save_for_backward(*saved)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None
        saved, piece = ctx.saved_tensors, ctx.piece
        if not torch.is_grad_enabled():
            return piece.pull(grad, *saved), None
        return keep_zero_gradients(ctx, _linear_map(grad, saved, piece.pull, piece.push), saved[0]), None


class _LinearMap(Function):
    """forward(v, *saved), linear in v; its derivative is the transposed map, to any order."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, saved: tuple[Tensor, ...], forward: Any, transpose: Any) -> Any:
        # saved comes in a tuple, and so makes no edges into the graph of the forward pass.
        ctx.set_materialize_grads(False)
        ctx.maps = (transpose, forward)
        ctx.save_for_backward(*saved)
        return forward(v, *saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None, None
        if torch.is_grad_enabled():
            return _linear_map(grad, ctx.saved_tensors, *ctx.maps), None, None, None
        return ctx.maps[0](grad, *ctx.saved_tensors), None, None, None


piecewise_linear: Callable[[Tensor, Piece], Tensor] = _PiecewiseLinear.apply
_linear_map: Callable[..., Tensor] = _LinearMap.apply
