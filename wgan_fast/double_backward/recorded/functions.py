"""Which functions a recorded forward pass may call, and what each call is (`calls`, `products`, `activations`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_fast.double_backward import norms, smooth
from wgan_fast.double_backward.convolution import Size, geometry_of, sizes
from wgan_fast.double_backward.recorded.activations import LeakyReLU, Normalized, Smooth
from wgan_fast.double_backward.recorded.calls import Call, Dropout, Padded, Pooled, Reshaped, Scaled, Sum, Summed
from wgan_fast.double_backward.recorded.products import Convolution, Linear

aten: Any = torch.ops.aten


class Unrecorded(BaseException):
    """A call that cannot be recorded. Not an Exception, which a critic may catch."""


class Recorder(Protocol):
    """What calls are made with. ``numbers``: of the values, by identity."""

    numbers: dict[int, int]

    def side(self, tensor: Any) -> int:
        """The place of a side of the dtype and device of the values; `Unrecorded` for what is none."""


def _linear(recorder: Recorder, input: Any, weight: Any, bias: Any = None) -> Call:
    source = recorder.numbers[id(input)]
    if input.dim() < 2 or weight.dim() != 2:
        raise Unrecorded
    return Linear(source, recorder.side(weight), None if bias is None else recorder.side(bias))


def _convolution(
    d: int,
    recorder: Recorder,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Call:
    source, geometry = recorder.numbers[id(input)], geometry_of(d, weight, stride, padding, dilation, groups)
    if input.dim() != d + 2 or geometry is None:
        raise Unrecorded
    bias = None if bias is None else recorder.side(bias)
    return Convolution(source, recorder.side(weight), bias, geometry)


def _relu(recorder: Recorder, input: Any, inplace: bool = False) -> Call:
    return LeakyReLU(recorder.numbers[id(input)], 0.0, inplace)


def _leaky_relu(recorder: Recorder, input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Call:
    if negative_slope <= 0:
        raise Unrecorded
    return LeakyReLU(recorder.numbers[id(input)], negative_slope, inplace)


def _smooth(form_of: Callable[..., Any], recorder: Recorder, input: Any, /, *args: Any, **kwargs: Any) -> Call:
    source, form = recorder.numbers[id(input)], form_of(input, *args, **kwargs)
    if form is NotImplemented or form.in_place is not None:
        raise Unrecorded
    return Smooth(source, form.rule, form.forward)


def _normalized(form_of: Callable[..., Any], recorder: Recorder, input: Any, /, *args: Any, **kwargs: Any) -> Call:
    source, form = recorder.numbers[id(input)], form_of(input, *args, **kwargs)
    if form is NotImplemented or form[0] is not input:
        raise Unrecorded
    _, weight, bias, norm = form
    weight, bias = (None if side is None else recorder.side(side) for side in (weight, bias))
    return Normalized(source, norm, weight, bias)


def _sum(subtract: bool, recorder: Recorder, a: Any, b: Any, /, *, alpha: float = 1) -> Call:
    sign = -alpha if subtract else alpha
    numbers = [recorder.numbers.get(id(operand)) for operand in (a, b)]
    if None not in numbers:
        return Sum((numbers[0], numbers[1]), None, (1.0, sign), [a.shape, b.shape])  # type: ignore[arg-type]
    value, side, factors = (b, a, (sign, 1.0)) if numbers[0] is None else (a, b, (1.0, sign))
    if torch.broadcast_shapes(value.shape, side.shape) != value.shape:
        raise Unrecorded
    return Sum((recorder.numbers[id(value)],), recorder.side(side), factors, [value.shape])


def _scaled(divide: bool, recorder: Recorder, a: Any, b: Any, /) -> Call:
    x, factor = (a, b) if divide or isinstance(a, Tensor) else (b, a)
    if type(factor) not in (int, float):
        raise Unrecorded
    return Scaled(recorder.numbers[id(x)], 1 / factor if divide else factor)


def _dropout(
    recorder: Recorder, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Call | None:
    source = recorder.numbers[id(input)]
    if inplace:
        raise Unrecorded
    if not training or p == 0:
        return None
    return Dropout(source, p)


def _average(
    recorder: Recorder,
    input: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Call:
    source, windows = recorder.numbers[id(input)], [sizes(n, 2) for n in (kernel_size, stride or kernel_size, padding)]
    arguments: Any = (*windows, ceil_mode, count_include_pad, divisor_override)
    if input.dim() != 4:
        raise Unrecorded
    return Pooled(
        source,
        lambda x: F.avg_pool2d(x, *arguments),
        lambda signal, x: aten.avg_pool2d_backward.default(signal, x, *arguments),
    )


def _adaptive_average(recorder: Recorder, input: Any, output_size: Any) -> Call:
    source = recorder.numbers[id(input)]
    if input.dim() != 4:
        raise Unrecorded
    return Pooled(source, lambda x: F.adaptive_avg_pool2d(x, output_size), aten._adaptive_avg_pool2d_backward.default)


def _padded(recorder: Recorder, input: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Call:
    source = recorder.numbers[id(input)]
    if mode != "constant" or value or len(pad) // 2 >= input.dim() or min(pad) < 0:
        raise Unrecorded
    return Padded(source, list(pad))


def _reshaped(function: Callable[..., Tensor], recorder: Recorder, input: Any, /, *args: Any, **kwargs: Any) -> Call:
    source = recorder.numbers[id(input)]
    if any(isinstance(v, (Tensor, torch.dtype)) for v in (*args, *kwargs.values())):
        raise Unrecorded
    return Reshaped(source, lambda x: function(x, *args, **kwargs), input.shape)


def _unchanged(condition: Callable[[Tensor], bool], recorder: Recorder, input: Any, /) -> None:
    if not condition(input):
        raise Unrecorded


def _over(mean: bool, recorder: Recorder, input: Any, dim: Any = None, keepdim: bool = False) -> Call:
    source = recorder.numbers[id(input)]
    given = [dim] if isinstance(dim, int) else list(dim or [])
    dims = sorted(d % input.dim() for d in given)
    if not dims or dims[0] == 0:
        raise Unrecorded
    count = input.shape.numel() // max(1, torch.Size(n for i, n in enumerate(input.shape) if i not in dims).numel())
    return Summed(source, dims, keepdim, input.shape, 1 / count if mean else 1)


T: Any = Tensor

CALLS: dict[Any, Callable[..., Call | None]] = {
    F.linear: _linear,
    **{f: partial(_convolution, d) for d, f in enumerate((F.conv1d, F.conv2d, F.conv3d), 1)},
    **dict.fromkeys([F.relu, torch.relu, T.relu], _relu),
    **dict.fromkeys([torch.relu_, T.relu_], partial(_relu, inplace=True)),
    F.leaky_relu: _leaky_relu,
    F.leaky_relu_: partial(_leaky_relu, inplace=True),
    **{function: partial(_smooth, form) for function, form in smooth.FORMS.items()},
    **{function: partial(_normalized, form) for function, form in norms.FORMS.items()},
    F.dropout: _dropout,
    F.avg_pool2d: _average,
    F.adaptive_avg_pool2d: _adaptive_average,
    F.pad: _padded,
    **dict.fromkeys([torch.add, T.add, T.__add__, T.__radd__], partial(_sum, False)),
    **dict.fromkeys([torch.sub, T.sub, T.__sub__], partial(_sum, True)),
    **dict.fromkeys([torch.mul, T.mul, T.__mul__, T.__rmul__], partial(_scaled, False)),
    **dict.fromkeys([torch.div, T.div, T.__truediv__], partial(_scaled, True)),
    **{
        f: partial(_reshaped, f)
        for name in ("flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view")
        for f in (getattr(owner, name, None) for owner in (torch, T))
        if f is not None
    },
    **dict.fromkeys([torch.mean, T.mean], partial(_over, True)),
    **dict.fromkeys([torch.sum, T.sum], partial(_over, False)),
    T.contiguous: partial(_unchanged, T.is_contiguous),
    T.float: partial(_unchanged, lambda x: x.dtype is torch.float32),
}
"""How each function's call is recorded; None where it returns its argument. An exception means that it cannot be."""

HARMLESS = frozenset(
    [getattr(T, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_cuda", "layout", "requires_grad")]
    + [T.size, T.dim, T.numel, T.stride, T.is_contiguous, T.is_floating_point, T.__len__, T.element_size]
)
"""What a critic may ask about a value: nothing that depends on its numbers or on how it was computed."""
