"""Activations and norms in a recorded pass: (leaky) ReLU, and those whose second derivative is not zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_fast import ops
from wgan_fast.double_backward.norms import Norm
from wgan_fast.double_backward.recorded.calls import Call, Factors, Kept
from wgan_fast.double_backward.smooth import Rule

aten: Any = torch.ops.aten


class LeakyReLU(Call):
    """relu for a slope of 0. Its derivative is a function of the result where that has the sign of the source."""

    kinked = True

    def __init__(self, source: int, slope: float, in_place: bool) -> None:
        super().__init__(source)
        self.slope, self.in_place = slope, in_place

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        (x,) = sources
        if self.slope == 0:
            return x.relu_() if self.in_place else x.relu()
        return F.leaky_relu(x, self.slope, self.in_place)

    def keep(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (y,)

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return (self.times_slope(kept, signal),)

    def tangent(self, kept: Kept, *tangents: Tensor) -> Tensor:
        return self.times_slope(kept, *tangents)

    def times_slope(self, kept: Kept, values: Tensor, *, overwrite: bool = False) -> Tensor:
        out = values if overwrite else torch.empty_like(values)
        if self.slope == 0:
            return aten.threshold_backward.grad_input(values, kept[self.kept[0]], 0, grad_input=out)  # type: ignore[no-any-return]
        return aten.leaky_relu_backward.grad_input(values, kept[self.kept[0]], self.slope, True, grad_input=out)  # type: ignore[no-any-return]


class Smooth(Call):
    """A smooth activation: what it keeps is what its rule's backward takes, source or result."""

    kinked = curved = True

    def __init__(self, source: int, rule: Rule, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(source)
        self.rule, self.function = rule, function
        self.of_result = rule.activation.endswith("_result")

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        return self.function(*sources)

    def keep(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (y if self.of_result else x,)

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return (self.rule.backward(signal, kept[self.kept[0]]),)

    def second_order(
        self, kept: Kept, tangent: Tensor, asked: set[int]
    ) -> tuple[Tensor, int, Tensor, Iterable[tuple[int, Tensor | None]]]:
        saved, signal = kept[self.kept[0]], kept[self.signal]
        options = (self.rule.activation, self.rule.options, (True, True), "auto")
        result, adjoint = ops.activation_double_backward(saved, signal, tangent, *options)
        assert result is not None
        assert adjoint is not None
        return result, self.result if self.of_result else self.sources[0], adjoint, ()


class Normalized(Call):
    """A layer, group, instance or rms norm, with its weight and bias; it keeps the source and its statistics."""

    kinked = curved = True

    def __init__(self, source: int, norm: Norm, weight: int | None, bias: int | None) -> None:
        super().__init__(source)
        self.norm, self.weight, self.bias = norm, weight, bias
        self.sides = tuple([side for side in (weight, bias) if side is not None])

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        y, mean, rstd = self.norm.forward(sources[0], *self._parameters(kept))
        self.made = (rstd,) if mean is None else (mean, rstd)
        return y

    def keep(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return x, *self.made

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return self._first_order(kept, signal, [True, False, False])[:1]  # type: ignore[return-value]

    def adjoint(
        self, kept: Kept, signal: Tensor, factors: Factors, through: bool
    ) -> tuple[tuple[Tensor, ...], Iterable[tuple[int, Tensor | None]]]:
        wanted = [through, self.weight in factors.asked, self.bias in factors.asked]
        to_x, to_weight, to_bias = self._first_order(kept, signal, wanted)
        sides = ((self.weight, to_weight), (self.bias, to_bias))
        found = [(side, gradient) for side, gradient in sides if side is not None and gradient is not None]
        return () if to_x is None else (to_x,), found

    def second_order(
        self, kept: Kept, tangent: Tensor, asked: set[int]
    ) -> tuple[Tensor, int, Tensor, Iterable[tuple[int, Tensor | None]]]:
        x, mean, rstd = self._kept(kept)
        weight = self._parameters(kept)[0]
        flat_weight = weight if weight is None or weight.dim() == 1 else weight.reshape(-1)
        rows = self.norm.rows
        inputs = (rows(x), mean, rstd, flat_weight, rows(kept[self.signal]), rows(tangent))
        needed = (True, True, self.weight in asked)
        result, adjoint, to_weight = ops.norm_double_backward(inputs, self.norm.num_groups, needed, "auto")
        assert result is not None
        assert adjoint is not None
        found = []
        if self.weight is not None and weight is not None and to_weight is not None:
            found = [(self.weight, to_weight.reshape(weight.shape))]
        return result.reshape(x.shape), self.sources[0], adjoint.reshape(x.shape), found

    def _parameters(self, kept: Kept) -> tuple[Tensor | None, Tensor | None]:
        return None if self.weight is None else kept[self.weight], None if self.bias is None else kept[self.bias]

    def _kept(self, kept: Kept) -> tuple[Tensor, Tensor | None, Tensor]:
        x, *statistics = (kept[place] for place in self.kept)
        return x, statistics[0] if len(statistics) == 2 else None, statistics[-1]

    def _first_order(self, kept: Kept, signal: Tensor, wanted: list[bool]) -> tuple[Tensor | None, ...]:
        x, mean, rstd = self._kept(kept)
        return self.norm.backward(signal, x, *self._parameters(kept), (mean, rstd), wanted)
