"""A layer's weight as a linear map y = W x: the map, its transpose, and the derivative of ⟨y, W x⟩.

Every function takes lists, the weights and vectors of k layers of one kind. A single layer is used as it is; several
are stacked, and then cost as many launches as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

aten: Any = torch.ops.aten
Tensors = Sequence[Tensor]


class MatrixMap(NamedTuple):
    """W (m, n), x (n,), y (m,)."""

    def forward(self, weights: Tensors, xs: Tensors) -> Tensors:
        """W x."""
        if len(weights) == 1:
            return [torch.mv(weights[0], xs[0])]
        return torch.bmm(torch.stack([*weights]), torch.stack([*xs])[..., None])[..., 0].unbind()

    def transposed(self, weights: Tensors, ys: Tensors, xs: Tensors) -> Tensors:
        """Wᵀ y, in the shapes of ``xs``."""
        if len(weights) == 1:
            return [torch.mv(weights[0].T, ys[0])]
        return torch.bmm(torch.stack([*weights]).mT, torch.stack([*ys])[..., None])[..., 0].unbind()

    def subtract_outer(self, bases: Tensors, weights: Tensors, ys: Tensors, xs: Tensors) -> Tensors:
        """base - y xᵀ, the second being the derivative of ⟨y, W x⟩ with respect to W."""
        if len(weights) == 1:
            return [torch.addr(bases[0], ys[0], xs[0], alpha=-1)]
        y, x = torch.stack([*ys])[..., None], torch.stack([*xs])[:, None]
        return torch.baddbmm(torch.stack([*bases]), y, x, alpha=-1).unbind()


class ConvolutionMap(NamedTuple):
    """A convolution without its bias: its weight W, x (C_in, ...), y (C_out, ...); k layers make k times the groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    is_transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def forward(self, weights: Tensors, xs: Tensors) -> Tensors:
        """W x."""
        y: Tensor = aten.convolution.default(_joined(xs), torch.cat([*weights]), None, *self._geometry(len(xs)))
        return y[0].chunk(len(xs))

    def transposed(self, weights: Tensors, ys: Tensors, xs: Tensors) -> Tensors:
        """Wᵀ y, in the shapes of ``xs``."""
        x: Tensor = self._backward(weights, ys, xs, [True, False, False])[0]
        return x[0].chunk(len(xs))

    def subtract_outer(self, bases: Tensors, weights: Tensors, ys: Tensors, xs: Tensors) -> Tensors:
        """base - the derivative of ⟨y, W x⟩ with respect to W."""
        outer: Tensor = self._backward(weights, ys, xs, [False, True, False])[1]
        return (torch.cat([*bases]) - outer).chunk(len(xs))

    def _backward(self, weights: Tensors, ys: Tensors, xs: Tensors, mask: list[bool]) -> Any:
        geometry = self._geometry(len(xs))
        return aten.convolution_backward.default(_joined(ys), _joined(xs), torch.cat([*weights]), None, *geometry, mask)

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


def inner_products(weights: Tensors, others: Tensors) -> Tensors:
    """⟨a, b⟩ of each pair of tensors, all of one shape; 0-dimensional."""
    if len(weights) == 1:
        return [torch.dot(weights[0].reshape(-1), others[0].reshape(-1))]
    a, b = torch.stack([*weights]).flatten(1), torch.stack([*others]).flatten(1)
    return torch.bmm(a[:, None], b[..., None]).view(-1).unbind()


def _joined(xs: Tensors) -> Tensor:
    return torch.cat([*xs])[None]
