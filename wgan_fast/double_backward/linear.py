"""Linear layers whose products may be `wgan_fast.onednn`'s, with gradients of any order.

Each has a second node in the input gradients' graph. In a forward pass whose scores and input gradients enter one loss
(`shared_pass`) that node computes the parameters' gradients from the backward signal δ, the tangent t and the scores'
slopes c.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from wgan_fast import onednn
from wgan_fast.double_backward.entries import bias_gradient
from wgan_fast.double_backward.penalised_points import is_of_use, starts_at_points
from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.shared_pass import SharedPass, with_slopes
from wgan_fast.double_backward.zero_gradients import wanted
from wgan_fast.dtypes import PLAIN_TYPES


def fast_linear(device: torch.device) -> AbstractContextManager[Any]:
    """Within this context linear layers on that device multiply as `onednn.product` does, with gradients of any order.

    Left to torch: what is under compilation, ``torch.func``, forward mode or saved-tensor hooks (checkpoints).
    """
    return _FastLinear() if device.type == "cpu" and onednn.operation() is not None else nullcontext()


class _FastLinear(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        served = func is F.linear and not kwargs and plain_autograd() and onednn.serves(*args)
        return linear(*args) if served else func(*args, **(kwargs or {}))


class _Linear(Function):
    """x Wᵀ + b, where x is (..., K)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, shared: SharedPass | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared, ctx.bias = shared, bias
        ctx.save_for_backward(x, weight)
        return onednn.product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None, None
        x, weight = ctx.saved_tensors
        if ctx.shared is not None and ctx.shared.capturing:
            return _input_gradient(grad, weight, ctx.bias, x.detach(), ctx.shared), None, None, None
        # Not ctx.needs_input_grad: a generator step goes through the critic, whose weight gradients are not needed.
        mask = [wanted(node) for node, _ in ctx.next_functions]
        observed = ctx.shared is not None and ctx.shared.observed
        to_x = mask[0] and is_of_use(ctx.next_functions[0][0], observed)
        grad_x = _input_gradient(grad, weight, None, None, None) if to_x else None
        grad_bias = grad.flatten(0, -2).sum(0) if len(mask) > 2 and mask[2] else None
        return grad_x, _outer(grad, x) if mask[1] else None, grad_bias, None


class _InputGradient(Function):
    """The input gradient of a linear layer; x is for a shared pass."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor | None, shared: SharedPass | None
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shared, ctx.bias = shared, bias
        ctx.save_for_backward(grad, weight, x)
        return onednn.product(grad, weight.t())

    @staticmethod
    def backward(ctx: Any, tangent: Tensor | None) -> Any:
        grad, weight, x = ctx.saved_tensors
        mask = [wanted(node) for node, _ in ctx.next_functions]
        grad_grad = grad_weight = grad_bias = None
        if mask[0] and tangent is not None:
            grad_grad = linear(tangent, weight)
        if mask[1] and (rows := tangent if x is None else with_slopes(ctx.shared, tangent, x)) is not None:
            grad_weight = _outer(grad, rows)
        if ctx.bias is not None and mask[2]:
            grad_bias = bias_gradient(ctx.shared, grad, ctx.bias, -1)
        return grad_grad, grad_weight, grad_bias, None, None


_linear: Callable[..., Tensor] = _Linear.apply
_input_gradient: Callable[..., Tensor] = _InputGradient.apply


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, shared: SharedPass | None = None) -> Tensor:
    """``F.linear``, for x of at least two dimensions."""
    return _linear(x, weight, bias, shared)


def _outer(signal: Tensor, x: Tensor) -> Tensor:
    """Σ over all rows of signal ⊗ x: the gradient of a linear layer's weight."""
    return linear(signal.flatten(0, -2).t(), x.flatten(0, -2).t())


def arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Input, weight and bias with the casts of autocast; NotImplemented for what `linear` does not serve."""
    parameters = [weight] if bias is None else [weight, bias]
    if input.dim() < 2 or weight.dim() != 2 or any(type(p) not in PLAIN_TYPES for p in parameters):
        return NotImplemented
    if bias is not None and bias.shape != weight.shape[:1]:
        return NotImplemented
    if torch.is_autocast_enabled(input.device.type) and input.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if any(t is not None and (t.dtype, t.device) != (input.dtype, input.device) for t in (weight, bias)):
        return NotImplemented
    return NotImplemented if input.shape[-1] != weight.shape[1] else (input, weight, bias)


def _replaced(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not (starts_at_points(input) or onednn.serves(input, weight, bias)):
        return NotImplemented
    given = arguments(input, weight, bias)
    return NotImplemented if given is NotImplemented else linear(*given)


REPLACEMENTS: dict[Any, Callable[..., Any]] = {F.linear: _replaced}
