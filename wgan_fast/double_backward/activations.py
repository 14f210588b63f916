"""The activations that the shortcut replaces, and their replacements.

Each is piecewise linear, and eager's derivative of its backward with respect to the input is a
tensor of zeros. clamp, maximum, minimum, sort, amax, where and dropout are piecewise linear as well, but
eager carries no zeros there: they stay as they are.

A replacement takes the arguments of the function that it replaces, and returns NotImplemented for a call that
it leaves to autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_fast.double_backward.piecewise_linear import Backward, piecewise_linear
from wgan_fast.double_backward.zero_gradients import keep_zero_gradients, wanted
from wgan_fast.dtypes import PLAIN_TYPES

aten: Any = torch.ops.aten


def _relu(input: Tensor, inplace: bool = False) -> Any:
    if inplace and input.is_leaf:
        return NotImplemented  # an error, which eager raises

    def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        y = x.relu_() if inplace else x.relu()
        return y, (y,)

    return piecewise_linear(input, forward, lambda g, y: aten.threshold_backward.default(g, y, 0))


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Any:
    if inplace:
        return NotImplemented
    backward = aten.threshold_backward.default
    return _elementwise(input, lambda x: F.threshold(x, threshold, value), lambda g, x: backward(g, x, threshold))


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    args = (negative_slope, inplace)
    backward = aten.leaky_relu_backward.default
    return _elementwise(input, lambda x: F.leaky_relu(x, *args), lambda g, x: backward(g, x, *args), inplace)


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    args = (min_val, max_val)
    backward = aten.hardtanh_backward.default
    return _elementwise(input, lambda x: F.hardtanh(x, *args, inplace), lambda g, x: backward(g, x, *args), inplace)


def _relu6(input: Tensor, inplace: bool = False) -> Any:
    return _hardtanh(input, 0.0, 6.0, inplace)


def _hardshrink(input: Tensor, lambd: float = 0.5) -> Any:
    backward = aten.hardshrink_backward.default
    return _elementwise(input, lambda x: F.hardshrink(x, lambd), lambda g, x: backward(g, x, lambd))


def _softshrink(input: Tensor, lambd: float = 0.5) -> Any:
    backward = aten.softshrink_backward.default
    return _elementwise(input, lambda x: F.softshrink(x, lambd), lambda g, x: backward(g, x, lambd))


def _abs(input: Tensor) -> Any:
    return _elementwise(input, Tensor.abs, lambda g, x: g * x.sgn())


def _rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Any:
    args = (lower, upper, training)
    noise = torch.empty_like(input)
    operation = aten.rrelu_with_noise_.default if inplace else aten.rrelu_with_noise.default
    backward = aten.rrelu_with_noise_backward.default
    return _elementwise(
        input,
        lambda x: operation(x, noise, *args),
        lambda g, x, drawn: backward(g, x, drawn, *args, inplace),
        inplace,
        noise,
    )


def _elementwise(
    input: Tensor, operation: Callable[[Tensor], Tensor], backward: Backward, inplace: bool = False, *further: Tensor
) -> Any:
    """The backward takes the input, or the result that has replaced it, and ``further`` tensors."""
    if inplace and input.is_leaf:
        return NotImplemented  # an error, which eager raises

    def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        y = operation(x)
        return y, (y if inplace else x, *further)

    return piecewise_linear(input, forward, backward)


class _PReLU(torch.autograd.Function):
    """y = x where x > 0, weight * x elsewhere; its input gradient depends on the weight, and not on x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.visit = None
        ctx.save_for_backward(x, weight)
        return aten._prelu_kernel.default(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None
        x, weight = ctx.saved_tensors
        backward = aten._prelu_kernel_backward.default
        if not torch.is_grad_enabled():
            return backward(grad, x, weight)
        grad_x = grad_weight = None
        x_wanted, weight_wanted = (wanted(node) for node, _ in ctx.next_functions)
        if x_wanted:
            grad_x = keep_zero_gradients(ctx, backward(grad, x.detach(), weight)[0], x)
        if weight_wanted:
            grad_weight = backward(grad, x, weight)[1]
        return grad_x, grad_weight


_prelu_kernel: Callable[[Tensor, Tensor], Tensor] = _PReLU.apply


def _prelu(input: Tensor, weight: Tensor) -> Any:
    if type(weight) not in PLAIN_TYPES or weight.dtype != input.dtype or weight.dim() > 1:
        return NotImplemented
    channels = input.shape[1] if input.dim() > 1 else 1
    if weight.numel() not in (1, channels):
        return NotImplemented
    if weight.dim() == 1 and input.dim() > 1:
        weight = weight.view(1, -1, *[1] * (input.dim() - 2))
    return _prelu_kernel(input, weight)


REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.relu_: partial(_relu, inplace=True),
    Tensor.relu_: partial(_relu, inplace=True),
    F.relu6: _relu6,
    F.leaky_relu: _leaky_relu,
    F.leaky_relu_: partial(_leaky_relu, inplace=True),
    F.rrelu: _rrelu,
    F.prelu: _prelu,
    Tensor.prelu: _prelu,
    F.threshold: _threshold,
    torch.threshold: _threshold,
    F.hardtanh: _hardtanh,
    F.hardtanh_: partial(_hardtanh, inplace=True),
    F.hardshrink: _hardshrink,
    Tensor.hardshrink: _hardshrink,
    F.softshrink: _softshrink,
    torch.abs: _abs,
    torch.absolute: _abs,
    Tensor.abs: _abs,
    Tensor.absolute: _abs,
    Tensor.__abs__: _abs,
}

CAST_BY_AUTOCAST = frozenset({F.prelu, Tensor.prelu})
"""Left to autograd under autocast, which converts their input inside the call."""
