"""The poolings and paddings that the shortcut replaces, and their replacements; the rules are those of activations.

Max-pooling is piecewise linear; average pooling, reflection and replication are linear. Eager returns zeros for
all of them, because their backward takes the input, if only for its shape. An adaptive average to one value is a
mean, and other paddings are copies: eager carries no zeros there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_fast.double_backward.piecewise_linear import Backward, piecewise_linear

aten: Any = torch.ops.aten
Size: TypeAlias = int | Sequence[int]


def _max_pool(
    d: int,
    input: Tensor,
    kernel_size: Size | None,
    stride: Size | None = None,
    padding: Size | None = 0,
    dilation: Size | None = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if return_indices:
        return NotImplemented
    args = (_sizes(kernel_size, d), _sizes(stride, d), _sizes(padding, d), _sizes(dilation, d), ceil_mode)
    if d == 2:
        operation, backward = (
            aten.max_pool2d_with_indices.default,
            aten.max_pool2d_with_indices_backward.default,
        )
    else:
        operation, backward = (
            aten.max_pool3d_with_indices.default,
            aten.max_pool3d_with_indices_backward.default,
        )
    return _selecting(input, lambda x: operation(x, *args), lambda g, x, i: backward(g, x, *args, i))


def _adaptive_max_pool(d: int, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    if return_indices:
        return NotImplemented
    size = _output_size(output_size, input, d)
    operation = (aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)[d - 2]
    backward = (aten.adaptive_max_pool2d_backward.default, aten.adaptive_max_pool3d_backward.default)[d - 2]
    return _selecting(input, lambda x: operation(x, size), backward)


def _selecting(input: Tensor, operation: Callable[..., Any], backward: Backward) -> Any:
    """A pooling that takes one value of each window and returns its index."""

    def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, indices = operation(x)
        return y, (x, indices)

    return piecewise_linear(input, forward, backward)


def _avg_pool(
    d: int,
    input: Tensor,
    kernel_size: Size | None,
    stride: Size | None = None,
    padding: Size | None = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    sizes = (_sizes(kernel_size, d), _sizes(stride, d), _sizes(padding, d))
    args = (*sizes, ceil_mode, count_include_pad, divisor_override)
    operation = (aten.avg_pool2d.default, aten.avg_pool3d.default)[d - 2]
    backward = (aten.avg_pool2d_backward.default, aten.avg_pool3d_backward.default)[d - 2]
    return _linear(input, lambda x: operation(x, *args), lambda g, x: backward(g, x, *args))


def _adaptive_avg_pool(d: int, input: Tensor, output_size: Any) -> Any:
    size = _output_size(output_size, input, d)
    if size == [1] * d:
        return NotImplemented  # a mean, which carries no zeros
    operation = (aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default)[d - 2]
    backward = (aten._adaptive_avg_pool2d_backward.default, aten._adaptive_avg_pool3d_backward.default)[d - 2]
    return _linear(input, lambda x: operation(x, size), backward)


_PADDINGS: dict[tuple[str, int], tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    ("reflect", 1): (aten.reflection_pad1d.default, aten.reflection_pad1d_backward.default),
    ("reflect", 2): (aten.reflection_pad2d.default, aten.reflection_pad2d_backward.default),
    ("reflect", 3): (aten.reflection_pad3d.default, aten.reflection_pad3d_backward.default),
    ("replicate", 1): (aten.replication_pad1d.default, aten.replication_pad1d_backward.default),
    ("replicate", 2): (aten.replication_pad2d.default, aten.replication_pad2d_backward.default),
    ("replicate", 3): (aten.replication_pad3d.default, aten.replication_pad3d_backward.default),
}


def _pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    found = _PADDINGS.get((mode, len(pad) // 2))
    if found is None or input.dim() - len(pad) // 2 not in (1, 2):
        return NotImplemented
    operation, backward = found
    return _linear(input, lambda x: operation(x, pad), lambda g, x: backward(g, x, pad))


def _linear(input: Tensor, operation: Callable[[Tensor], Tensor], backward: Backward) -> Any:
    """A linear operation; of what it saves, only the shape and the memory format are read."""
    return piecewise_linear(input, lambda x: (operation(x), (x,)), backward)


def _max_pool1d(
    input: Tensor,
    kernel_size: Size | None,
    stride: Size | None = None,
    padding: Size | None = 0,
    dilation: Size | None = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if input.dim() not in (2, 3):
        return NotImplemented
    sizes = (_row(kernel_size, 1), _row(stride, 1), _row(padding, 0), _row(dilation, 1))
    return _flat(_max_pool(2, input.unsqueeze(-2), *sizes, ceil_mode=ceil_mode, return_indices=return_indices))


def _adaptive_max_pool1d(input: Tensor, output_size: Size, return_indices: bool = False) -> Any:
    if input.dim() not in (2, 3):
        return NotImplemented
    return _flat(_adaptive_max_pool(2, input.unsqueeze(-2), _row(output_size, 1), return_indices))


def _avg_pool1d(
    input: Tensor,
    kernel_size: Size | None,
    stride: Size | None = None,
    padding: Size | None = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    if input.dim() not in (2, 3):
        return NotImplemented
    sizes = (_row(kernel_size, 1), _row(stride, 1), _row(padding, 0))
    return _flat(_avg_pool(2, input.unsqueeze(-2), *sizes, ceil_mode=ceil_mode, count_include_pad=count_include_pad))


def _adaptive_avg_pool1d(input: Tensor, output_size: Size) -> Any:
    if input.dim() not in (2, 3):
        return NotImplemented
    return _flat(_adaptive_avg_pool(2, input.unsqueeze(-2), _row(output_size, 1)))


def _row(value: Size | None, height: int) -> list[int] | None:
    """A 1-D size as ATen's 1-D poolings pass it to their 2-D ones."""
    given = _sizes(value, 1)
    return [height, *given] if given else None


def _flat(y: Any) -> Any:
    return y if y is NotImplemented else y.squeeze(-2)


def _sizes(value: Size | None, d: int) -> list[int]:
    if value is None:
        return []
    return [value] * d if isinstance(value, int) else list(value)


def _output_size(value: Any, input: Tensor, d: int) -> list[int]:
    sizes = [value] * d if value is None or isinstance(value, int) else list(value)
    return [int(n) if s is None else s for s, n in zip(sizes, input.shape[-d:], strict=True)]


REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    F.max_pool1d: _max_pool1d,
    F.max_pool2d: partial(_max_pool, 2),
    F.max_pool3d: partial(_max_pool, 3),
    torch.max_pool1d: _max_pool1d,
    torch.max_pool2d: partial(_max_pool, 2),
    torch.max_pool3d: partial(_max_pool, 3),
    F.adaptive_max_pool1d: _adaptive_max_pool1d,
    F.adaptive_max_pool2d: partial(_adaptive_max_pool, 2),
    F.adaptive_max_pool3d: partial(_adaptive_max_pool, 3),
    F.avg_pool1d: _avg_pool1d,
    F.avg_pool2d: partial(_avg_pool, 2),
    F.avg_pool3d: partial(_avg_pool, 3),
    F.adaptive_avg_pool1d: _adaptive_avg_pool1d,
    F.adaptive_avg_pool2d: partial(_adaptive_avg_pool, 2),
    F.adaptive_avg_pool3d: partial(_adaptive_avg_pool, 3),
    F.pad: _pad,
}

CAST_BY_AUTOCAST = frozenset(function for function in REPLACEMENTS if function is F.pad or "3d" in function.__name__)
"""Left to autograd under autocast, which converts their input inside the call on some devices."""
