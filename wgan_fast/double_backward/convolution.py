"""Convolutions whose double backward computes the weight gradient in the direct form.

The input gradient of a convolution is bilinear in the output gradient δ and the weight W. Differentiating
it with a tangent t of the input gives δ's part conv(t, W) and W's part, which is an ordinary weight
gradient with t in place of the input. ATen's double backward writes the latter as a convolution of t
with a kernel as large as the whole output map, and loops over groups; ``convolution_backward`` with an
output mask is the direct form.

Which is faster depends on the device: ``DIRECT_DEVICES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from wgan_fast.double_backward.entries import bias_gradient
from wgan_fast.double_backward.penalised_points import is_of_use
from wgan_fast.double_backward.shared_pass import SharedPass, with_slopes
from wgan_fast.double_backward.zero_gradients import wanted

# The whole penalty with the direct form against ATen's, on a CPU (oneDNN): 13 % less time for a DCGAN-64 critic,
# 23 % for the WGAN-GP ResNet. On CUDA a sibling of ATen's formula took 7.5 ms where the direct one took 1.8 ms
# (pytorch/pytorch#54840).
DIRECT_DEVICES = frozenset({"cpu", "cuda"})

Size: TypeAlias = int | Sequence[int]


class Geometry(NamedTuple):
    """What aten::convolution and convolution_backward take between the bias (sizes) and the output mask."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


class _Convolution(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, shared: SharedPass | None
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.geometry, ctx.shared = geometry, shared
        ctx.bias = bias
        ctx.save_for_backward(x, weight)
        return torch.convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None, None, None
        x, weight = ctx.saved_tensors
        if ctx.shared is not None and ctx.shared.capturing:
            return _input_gradient(grad, weight, ctx.bias, x.detach(), ctx.geometry, ctx.shared), *[None] * 4
        mask = [wanted(node) for node, _ in ctx.next_functions]
        mask += [False] * (3 - len(mask))
        observed = ctx.shared is not None and ctx.shared.observed
        mask[0] = mask[0] and is_of_use(ctx.next_functions[0][0], observed)
        grad_x = None
        if torch.is_grad_enabled() and mask[0]:
            grad_x = _input_gradient(grad, weight, None, x.detach(), ctx.geometry, None)
            mask[0] = False
        rest = (None, None, None)
        if any(mask):
            bias_sizes = None if ctx.bias is None else list(ctx.bias.shape)
            args = (bias_sizes, *ctx.geometry, mask)
            rest = torch.ops.aten.convolution_backward.default(grad, x, weight, *args)
        return rest[0] if grad_x is None else grad_x, rest[1], rest[2], None, None


class _InputGradient(Function):
    """The input gradient of a convolution; of x only shape and memory format are read, except for a shared pass."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x: Tensor,
        geometry: Geometry,
        shared: SharedPass | None,
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.geometry, ctx.shared, ctx.bias = geometry, shared, bias
        ctx.save_for_backward(grad, weight, None if shared is None else x)
        return convolution_backward(grad, x, weight, geometry, 0)

    @staticmethod
    def backward(ctx: Any, tangent: Tensor | None) -> Any:
        grad, weight, x = ctx.saved_tensors
        mask = [wanted(node) for node, _ in ctx.next_functions]
        grad_grad = grad_weight = grad_bias = None
        if mask[0] and tangent is not None:
            grad_grad = torch.convolution(tangent, weight, None, *ctx.geometry)
        if mask[1] and (value := tangent if x is None else with_slopes(ctx.shared, tangent, x)) is not None:
            grad_weight = convolution_backward(grad, value, weight, ctx.geometry, 1)
        if ctx.bias is not None and mask[2]:
            grad_bias = bias_gradient(ctx.shared, grad, ctx.bias, 1)
        return grad_grad, grad_weight, grad_bias, None, None, None


convolution: Callable[..., Tensor] = _Convolution.apply
_input_gradient: Callable[..., Tensor] = _InputGradient.apply


def convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, which: int) -> Tensor:
    """The gradient of the input (0) or of the weight (1)."""
    mask = [which == 0, which == 1, False]
    gradients: list[Tensor] = torch.ops.aten.convolution_backward.default(grad, x, weight, None, *geometry, mask)
    return gradients[which]


def geometry_of(
    d: int, weight: Tensor, stride: Size, padding: Size | str, dilation: Size, groups: int
) -> Geometry | None:
    """Of a convolution over ``d`` dimensions; None for padding of two widths, and for what ATen refuses."""
    strides, dilations = sizes(stride, d), sizes(dilation, d)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = _same(weight, dilations)
        if any(n % 2 for n in total) or any(n != 1 for n in strides):
            return None
        padding = [n // 2 for n in total]
    if isinstance(padding, str):
        return None
    return Geometry(strides, sizes(padding, d), dilations, False, [0] * d, groups)


def _same(weight: Tensor, dilations: list[int]) -> list[int]:
    """How much "same" pads each dimension."""
    return [a * (k - 1) for a, k in zip(dilations, weight.shape[2:], strict=True)]


def _conv(
    d: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    shared: SharedPass | None = None,
) -> Any:
    if padding == "same" and shared is not None and all(n == 1 for n in sizes(stride, d)):
        total = _same(weight, sizes(dilation, d))
        input = F.pad(input, [n % 2 * after for n in reversed(total) for after in (0, 1)])  # as ATen does
        padding = [n // 2 for n in total]
    geometry = geometry_of(d, weight, stride, padding, dilation, groups)
    if geometry is None:
        return NotImplemented
    return _convolve(d, input, weight, bias, geometry, shared)


def _conv_transpose(
    d: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    shared: SharedPass | None = None,
) -> Any:
    geometry = Geometry(sizes(stride, d), sizes(padding, d), sizes(dilation, d), True, sizes(output_padding, d), groups)
    return _convolve(d, input, weight, bias, geometry, shared)


def _convolve(
    d: int, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, shared: SharedPass | None
) -> Any:
    if x.dim() != d + 2 or not isinstance(weight, Tensor) or weight.device != x.device:
        return NotImplemented
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        if torch.float64 in (x.dtype, weight.dtype):
            return NotImplemented
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if weight.dtype != x.dtype:
        return NotImplemented
    return convolution(x, weight, bias, geometry, shared)


def sizes(value: Size, d: int) -> list[int]:
    """One number per dimension."""
    given = [value] if isinstance(value, int) else list(value)
    return given * d if len(given) == 1 else given


REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    F.conv1d: partial(_conv, 1),
    F.conv2d: partial(_conv, 2),
    F.conv3d: partial(_conv, 3),
    F.conv_transpose1d: partial(_conv_transpose, 1),
    F.conv_transpose2d: partial(_conv_transpose, 2),
    F.conv_transpose3d: partial(_conv_transpose, 3),
}
