"""Linear layers and convolutions in a recorded pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wgan_fast import onednn
from wgan_fast.double_backward.convolution import Geometry, convolution_backward
from wgan_fast.double_backward.recorded.calls import Call, Factors, Kept


class Linear(Call):
    channel_dim = -1

    def __init__(self, source: int, weight: int, bias: int | None) -> None:
        super().__init__(source)
        self.weight, self.bias = weight, bias
        self.sides = (weight,) if bias is None else (weight, bias)

    def keep(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        return self.product(sources[0], kept[self.weight], None if self.bias is None else kept[self.bias])

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return (onednn.times(signal, kept[self.weight]),)

    def tangent(self, kept: Kept, *tangents: Tensor) -> Tensor:
        return self.product(tangents[0], kept[self.weight], None)

    def gradients(self, kept: Kept, signal: Tensor, factors: Factors) -> Iterator[tuple[int, Tensor | None]]:
        if self.weight in factors.asked:
            rows = factors.rows(self)
            yield self.weight, None if rows is None else self.outer(kept, signal, rows)
        if self.bias is not None and self.bias in factors.asked:
            yield self.bias, factors.summed(signal, self.channel_dim)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return onednn.product(x, weight, bias)

    def outer(self, kept: Kept, signal: Tensor, rows: Tensor) -> Tensor:
        """The weight's gradient."""
        if signal.dim() > 2:
            signal, rows = signal.flatten(0, -2), rows.flatten(0, -2)
        return onednn.times(signal.t(), rows)


class Convolution(Linear):
    channel_dim = 1

    def __init__(self, source: int, weight: int, bias: int | None, geometry: Geometry) -> None:
        super().__init__(source, weight, bias)
        self.geometry = geometry

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return (convolution_backward(signal, kept[self.kept[0]], kept[self.weight], self.geometry, 0),)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.convolution(x, weight, bias, *self.geometry)

    def outer(self, kept: Kept, signal: Tensor, rows: Tensor) -> Tensor:
        return convolution_backward(signal, rows, kept[self.weight], self.geometry, 1)
