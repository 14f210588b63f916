"""Where parameters enter a critic whose loss and penalty share one backward signal (`shared_pass`).

Each node here has a second one in the input gradients' graph: its forward pass passes the backward signal δ on, and
its backward pass, which receives the tangent t, computes the parameters' gradients from δ, t and the scores' slopes c.
Those of linear layers and convolutions are in `linear` and `convolution`.

A *side* is a tensor that requires grad and does not depend on the critic's inputs: a parameter, or what was computed
from parameters (a parametrised weight, an embedding of labels). Its gradient continues in its own graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wgan_fast.double_backward.shared_pass import SharedPass, with_slopes
from wgan_fast.double_backward.zero_gradients import wanted

aten: Any = torch.ops.aten


def bias_gradient(shared: SharedPass, signal: Tensor, bias: Tensor, channel_dim: int) -> Tensor:
    """Σ_b c_b δ_b, summed over all dimensions but one; zeros if the scores' gradient has not arrived."""
    c = shared.slopes(signal)
    if c is None:
        return torch.zeros_like(bias)
    return weighted_sum(signal, c, channel_dim).to(bias.dtype)


def weighted_sum(signal: Tensor, c: Tensor, channel_dim: int) -> Tensor:
    """Σ_b c_b δ_b, summed over all dimensions but one; c has one number per row."""
    if signal.dim() > 2:
        signal = signal.sum([d for d in range(1, signal.dim()) if d != channel_dim % signal.dim()])
    return torch.mv(signal.t(), c.flatten())


# ------------------------------------------------------------------------------------------------- scales


class _Scale(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shared: SharedPass, kinked: bool) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared, ctx.kinked = shared, kinked
        ctx.save_for_backward(x, scale)
        y: Tensor = aten._prelu_kernel.default(x, scale) if kinked else x * scale
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None, None
        x, scale = ctx.saved_tensors
        if ctx.shared.capturing:
            return _signal_through_scale(grad, scale, x.detach(), ctx.shared, ctx.kinked), None, None, None
        mask = [wanted(node) for node, _ in ctx.next_functions]
        grad_x = _scaled(grad, x, scale, ctx.kinked).sum_to_size(x.shape) if mask[0] else None
        return grad_x, _scale_gradient(grad, x, x, scale, ctx.kinked) if mask[1] else None, None, None


class _SignalThroughScale(Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, scale: Tensor, x: Tensor, shared: SharedPass, kinked: bool) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared, ctx.kinked = shared, kinked
        ctx.save_for_backward(signal, scale, x)
        return _scaled(signal, x, scale, kinked).sum_to_size(x.shape)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor | None) -> Any:
        signal, scale, x = ctx.saved_tensors
        mask = [wanted(node) for node, _ in ctx.next_functions]
        grad_signal = grad_scale = None
        if mask[0] and tangent is not None:
            grad_signal = _scaled(tangent, x, scale, ctx.kinked)
        if mask[1] and (rows := with_slopes(ctx.shared, tangent, x)) is not None:
            grad_scale = _scale_gradient(signal, rows, x, scale, ctx.kinked)
        return grad_signal, grad_scale, None, None, None


_scale: Callable[[Tensor, Tensor, SharedPass, bool], Tensor] = _Scale.apply
_signal_through_scale: Callable[..., Tensor] = _SignalThroughScale.apply


def _scaled(values: Tensor, x: Tensor, scale: Tensor, kinked: bool) -> Tensor:
    return torch.where(x > 0, values, values * scale) if kinked else values * scale


def _scale_gradient(signal: Tensor, rows: Tensor, x: Tensor, scale: Tensor, kinked: bool) -> Tensor:
    products = signal * rows
    return (products.masked_fill(x > 0, 0) if kinked else products).sum_to_size(scale.shape)


def scale(x: Tensor, scale: Tensor, shared: SharedPass, *, kinked: bool = False) -> Tensor:
    """x * scale, both broadcast; with ``kinked`` only where x is not positive, and x elsewhere: prelu."""
    return _scale(x, scale, shared, kinked)


# ------------------------------------------------------------------------------------------------- anything added


class _Enter(Function):
    """A side broadcast to one row per sample, which may then be combined with tensors that depend on the inputs.

    Its gradient is Σ_b c_b δ_b, over all that it was broadcast to. No input gradient passes here, so the second graph
    is tied to the ticket's gradient.
    """

    @staticmethod
    def forward(ctx: Any, side: Tensor, shape: torch.Size, ticket: Tensor, shared: SharedPass) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared, ctx.side = shared, side
        return side.detach().expand(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None, None
        if ctx.shared.capturing:
            return None, None, _signal_at_entry(grad, ctx.side, ctx.shared), None
        return grad.sum_to_size(ctx.side.shape), None, None, None


class _SignalAtEntry(Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, side: Tensor, shared: SharedPass) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared, ctx.shape = shared, side.shape
        ctx.save_for_backward(signal)
        return torch.zeros_like(shared.draw_ticket())

    @staticmethod
    def backward(ctx: Any, tangent: Tensor | None) -> Any:
        if tangent is None:
            return None, None, None
        (signal,) = ctx.saved_tensors
        padded = (1,) * (signal.dim() - len(ctx.shape)) + ctx.shape
        signal = signal.sum_to_size(signal.shape[0], *padded[1:])  # what is the same for all samples is small after it
        c = ctx.shared.slopes(signal)
        gradient = torch.zeros_like(signal) if c is None else signal * c
        return None, gradient.sum_to_size(padded).reshape(ctx.shape), None


_enter: Callable[..., Tensor] = _Enter.apply
_signal_at_entry: Callable[..., Tensor] = _SignalAtEntry.apply


def enter(side: Tensor, shape: torch.Size, shared: SharedPass) -> Tensor:
    """A side broadcast to ``shape``, whose first dimension runs over the samples."""
    return _enter(side, shape, shared.draw_ticket(), shared)
