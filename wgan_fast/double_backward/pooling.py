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


# By the number of dimensions; a row is pooled as an image of height 1, as ATen does.
_MAX = {
    2: (aten.max_pool2d_with_indices.default, aten.max_pool2d_with_indices_backward.default),
    3: (aten.max_pool3d_with_indices.default, aten.max_pool3d_with_indices_backward.default),
}
_ADAPTIVE_MAX = {
    2: (aten.adaptive_max_pool2d.default, aten.adaptive_max_pool2d_backward.default),
    3: (aten.adaptive_max_pool3d.default, aten.adaptive_max_pool3d_backward.default),
}
_AVG = {
    2: (aten.avg_pool2d.default, aten.avg_pool2d_backward.default),
    3: (aten.avg_pool3d.default, aten.avg_pool3d_backward.default),
}
_ADAPTIVE_AVG = {
    2: (aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d_backward.default),
    3: (aten._adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d_backward.default),
}


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
    sizes = (_sizes(kernel_size, d), _sizes(stride, d), _sizes(padding, d, height=0), _sizes(dilation, d))
    args = (*sizes, ceil_mode)
    operation, backward = _MAX[max(d, 2)]
    return _pooled(d, input, lambda x: operation(x, *args), lambda g, x, i: backward(g, x, *args, i))


def _adaptive_max_pool(d: int, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    if return_indices:
        return NotImplemented
    size = _output_size(output_size, input, d)
    operation, backward = _ADAPTIVE_MAX[max(d, 2)]
    return _pooled(d, input, lambda x: operation(x, size), backward)


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
    if d == 1 and divisor_override is not None:
        return NotImplemented  # an error, which eager raises
    sizes = (_sizes(kernel_size, d), _sizes(stride, d), _sizes(padding, d, height=0))
    args = (*sizes, ceil_mode, count_include_pad, divisor_override)
    operation, backward = _AVG[max(d, 2)]
    return _pooled(d, input, lambda x: operation(x, *args), lambda g, x: backward(g, x, *args))


def _adaptive_avg_pool(d: int, input: Tensor, output_size: Any) -> Any:
    size = _output_size(output_size, input, d)
    if set(size) == {1}:
        return NotImplemented  # a mean, which carries no zeros
    operation, backward = _ADAPTIVE_AVG[max(d, 2)]
    return _pooled(d, input, lambda x: operation(x, size), backward)


def _pooled(d: int, input: Tensor, operation: Callable[[Tensor], Any], backward: Backward) -> Any:
    """``operation`` returns the result, or the result and what else the backward takes: indices of maxima."""

    def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        result = operation(x)
        y, *further = (result,) if isinstance(result, Tensor) else result
        return y, (x, *further)

    if d > 1:
        return piecewise_linear(input, forward, backward)
    if input.dim() not in (2, 3):
        return NotImplemented
    return piecewise_linear(input.unsqueeze(-2), forward, backward).squeeze(-2)


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
    return piecewise_linear(input, lambda x: (operation(x, pad), (x,)), lambda g, x: backward(g, x, pad))


def _sizes(value: Size | None, d: int, height: int = 1) -> list[int]:
    """A size per dimension, none where absent; for a row that of its height first."""
    if value is None:
        return []
    sizes = [value] * d if isinstance(value, int) else list(value)
    return [height, *sizes] if d == 1 and sizes else sizes


def _output_size(value: Any, input: Tensor, d: int) -> list[int]:
    given = [value] * d if value is None or isinstance(value, int) else list(value)
    sizes = [int(n) if s is None else int(s) for s, n in zip(given, input.shape[-d:], strict=True)]
    return [1, *sizes] if d == 1 else sizes


REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    F.max_pool1d: partial(_max_pool, 1),
    F.max_pool2d: partial(_max_pool, 2),
    F.max_pool3d: partial(_max_pool, 3),
    torch.max_pool1d: partial(_max_pool, 1),
    torch.max_pool2d: partial(_max_pool, 2),
    torch.max_pool3d: partial(_max_pool, 3),
    F.adaptive_max_pool1d: partial(_adaptive_max_pool, 1),
    F.adaptive_max_pool2d: partial(_adaptive_max_pool, 2),
    F.adaptive_max_pool3d: partial(_adaptive_max_pool, 3),
    F.avg_pool1d: partial(_avg_pool, 1),
    F.avg_pool2d: partial(_avg_pool, 2),
    F.avg_pool3d: partial(_avg_pool, 3),
    F.adaptive_avg_pool1d: partial(_adaptive_avg_pool, 1),
    F.adaptive_avg_pool2d: partial(_adaptive_avg_pool, 2),
    F.adaptive_avg_pool3d: partial(_adaptive_avg_pool, 3),
    F.pad: _pad,
}

CAST_BY_AUTOCAST = frozenset(function for function in REPLACEMENTS if function is F.pad or "3d" in function.__name__)
"""Left to autograd under autocast, which converts their input inside the call on some devices."""
