"""A layer's weight as a linear map y = W x: the map, its transpose, and the derivative of ⟨y, W x⟩.

Every function works on k layers of one kind at once, stacked in dimension 0, in as many launches as one of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

aten: Any = torch.ops.aten


class MatrixMap(NamedTuple):
    """W (k, m, n), x (k, n), y (k, m)."""

    def forward(self, weight: Tensor, x: Tensor) -> Tensor:
        return torch.bmm(weight, x[..., None])[..., 0]

    def transposed(self, weight: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Wᵀ y, in the shape of ``x``."""
        return torch.bmm(weight.mT, y[..., None])[..., 0]

    def add_outer(self, base: Tensor, weight: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """base + y xᵀ, the second being the derivative of ⟨y, W x⟩ with respect to W."""
        if len(base) == 1:  # half the time of baddbmm on the CPU, whose inner index is of length one here
            return torch.addr(base[0], y[0], x[0])[None]
        return torch.baddbmm(base, y[..., None], x[:, None])


class ConvolutionMap(NamedTuple):
    """W (k, *weight), x (k, C_in, ...), y (k, C_out, ...): one sample each, k layers as k groups of a convolution."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    is_transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def forward(self, weight: Tensor, x: Tensor) -> Tensor:
        y = aten.convolution.default(x.flatten(0, 1)[None], weight.flatten(0, 1), None, *self._geometry(len(x)))
        return _split(y, len(x))

    def transposed(self, weight: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Wᵀ y, in the shape of ``x``."""
        return _split(self._backward(weight, y, x, [True, False, False])[0], len(x))

    def add_outer(self, base: Tensor, weight: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """base + the derivative of ⟨y, W x⟩ with respect to W."""
        outer: Tensor = self._backward(weight, y, x, [False, True, False])[1].view(weight.shape)
        return base + outer

    def _backward(self, weight: Tensor, y: Tensor, x: Tensor, mask: list[bool]) -> Any:
        joined = y.flatten(0, 1)[None], x.flatten(0, 1)[None], weight.flatten(0, 1)
        return aten.convolution_backward.default(*joined, None, *self._geometry(len(x)), mask)

    def _geometry(self, k: int) -> tuple[Any, ...]:
        return (*self[:5], self.groups * k)


LinearMap = MatrixMap | ConvolutionMap


def convolution_map(layer: _ConvNd) -> ConvolutionMap:
    """The map that a convolution layer is.

    Raises:
        ValueError: padding other than with as many zeros on both sides.
    """
    if isinstance(layer.padding, tuple):
        padding = layer.padding
    elif layer.padding == "valid":
        padding = (0,) * len(layer.kernel_size)
    else:
        both = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(n % 2 for n in both):
            raise ValueError("padding='same' with an even kernel pads its sides unequally")
        padding = tuple(n // 2 for n in both)
    if layer.padding_mode != "zeros":
        raise ValueError(f"padding_mode={layer.padding_mode!r}: expected 'zeros'")
    transposed = isinstance(layer, _ConvTransposeNd)
    return ConvolutionMap(layer.stride, padding, layer.dilation, transposed, layer.output_padding, layer.groups)


def _split(y: Tensor, k: int) -> Tensor:
    """(1, k * C, ...) to (k, C, ...)."""
    return y[0].view(k, -1, *y.shape[2:])
