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
    if signal.dim() > 2:
        signal = signal.sum([d for d in range(1, signal.dim()) if d != channel_dim % signal.dim()])
    return torch.mv(signal.t(), c.flatten()).to(bias.dtype)


# ------------------------------------------------------------------------------------------------- scales


class _Scale(Function):
    """x * scale, both broadcast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shared: SharedPass) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared = shared
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        x, scale = ctx.saved_tensors
        if ctx.shared.capturing:
            return _signal_through_scale(grad, scale, x.detach(), ctx.shared), None, None
        mask = [wanted(node) for node, _ in ctx.next_functions]
        grad_x = (grad * scale).sum_to_size(x.shape) if mask[0] else None
        return grad_x, (grad * x).sum_to_size(scale.shape) if mask[1] else None, None


class _SignalThroughScale(Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, scale: Tensor, x: Tensor, shared: SharedPass) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared = shared
        ctx.save_for_backward(signal, scale, x)
        return (signal * scale).sum_to_size(x.shape)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor | None) -> Any:
        signal, scale, x = ctx.saved_tensors
        mask = [wanted(node) for node, _ in ctx.next_functions]
        rows = with_slopes(ctx.shared, tangent, x) if mask[1] else None
        return (
            tangent * scale if mask[0] and tangent is not None else None,
            None if rows is None else (signal * rows).sum_to_size(scale.shape),
            None,
            None,
        )


scale: Callable[[Tensor, Tensor, SharedPass], Tensor] = _Scale.apply
_signal_through_scale: Callable[..., Tensor] = _SignalThroughScale.apply


class _PReLU(Function):
    """x where x > 0, weight * x elsewhere; the weight broadcasts against x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shared: SharedPass) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared = shared
        ctx.save_for_backward(x, weight)
        y: Tensor = aten._prelu_kernel.default(x, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        x, weight = ctx.saved_tensors
        if ctx.shared.capturing:
            return _signal_through_prelu(grad, weight, x.detach(), ctx.shared), None, None
        return *aten._prelu_kernel_backward.default(grad, x, weight), None


class _SignalThroughPReLU(Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, x: Tensor, shared: SharedPass) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared = shared
        ctx.save_for_backward(signal, weight, x)
        return torch.where(x > 0, signal, signal * weight)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor | None) -> Any:
        signal, weight, x = ctx.saved_tensors
        mask = [wanted(node) for node, _ in ctx.next_functions]
        rows = with_slopes(ctx.shared, tangent, x) if mask[1] else None
        return (
            torch.where(x > 0, tangent, tangent * weight) if mask[0] and tangent is not None else None,
            None if rows is None else (signal * rows).masked_fill(x > 0, 0).sum_to_size(weight.shape),
            None,
            None,
        )


prelu: Callable[[Tensor, Tensor, SharedPass], Tensor] = _PReLU.apply
_signal_through_prelu: Callable[..., Tensor] = _SignalThroughPReLU.apply


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
