"""The calls that a recorded forward pass may consist of, and the passes of a penalised step through each of them.

A call takes values that depend on the critic's inputs, its *sources*, and *sides*: weights and constants, which do
not. `recording` numbers the values, and has one list of what is kept for later passes, ``kept``, by whose places the
calls refer to tensors.

The *signal* is the gradient of the summed scores with respect to a value; the *tangent* is the direction in which the
inputs are differentiated a second time, carried forward to a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_fast.double_backward.entries import weighted_sum

aten: Any = torch.ops.aten
Kept = Sequence[Tensor]


class Factors:
    """What the signal at a call is multiplied with to give the gradients of its sides.

    Args:
        kept: what the calls refer to.
        asked: the places of the sides whose gradients are asked for.
        tangents: of the values, by number.
        c: one number per sample, the gradient of its score; None for zero.
    """

    def __init__(self, kept: Kept, asked: set[int], tangents: dict[int, Tensor], c: Tensor | None) -> None:
        self.kept, self.asked, self.tangents = kept, asked, tangents
        self.c = None if c is None else c.reshape(-1, 1)

    def rows(self, call: Call) -> Tensor | None:
        """Of a product with the source: t + c a, with a the source; None for zero."""
        tangent = self.tangents.get(call.sources[0])
        if self.c is None:
            return tangent
        a = self.kept[call.kept[0]]
        c = _of_rank(self.c, a)
        return a * c if tangent is None else torch.addcmul(tangent, a, c)

    def weighted(self, signal: Tensor) -> Tensor | None:
        """The signal times c; None for zero."""
        return None if self.c is None else signal * _of_rank(self.c, signal)

    def summed(self, signal: Tensor, channel_dim: int) -> Tensor | None:
        """The same, summed over all dimensions but one."""
        return None if self.c is None else weighted_sum(signal, self.c, channel_dim)


def _of_rank(c: Tensor, like: Tensor) -> Tensor:
    return c if like.dim() == 2 else c.view(-1, *[1] * (like.dim() - 1))


class OwnSignal(Factors):
    """Where the signal is the loss's own: the gradients are those of an ordinary backward pass."""

    def __init__(self, kept: Kept, asked: set[int]) -> None:
        super().__init__(kept, asked, {}, None)

    def rows(self, call: Call) -> Tensor | None:
        return self.kept[call.kept[0]]

    def weighted(self, signal: Tensor) -> Tensor | None:
        return signal

    def summed(self, signal: Tensor, channel_dim: int) -> Tensor | None:
        return signal.sum([d for d in range(signal.dim()) if d != channel_dim % signal.dim()])


class Call:
    """A call, linear in its one source unless a subclass says otherwise.

    Attributes:
        sources: the numbers of its values.
        sides: the places of the sides that have a gradient.
        kinked: whether autograd has a second derivative, if only of zeros, for all that is before it.
        curved: whether it has one that is not zero.
        in_place: whether the result overwrites the source.
        fresh: whether the signals and tangents that it returns are tensors of their own.
        made: what the first forward pass has made for later ones, until it is kept.
        result: the number of the result.
        signal: the place of its signal, if it keeps that.
        kept: the places of what it keeps.
        first_use, last_use: those of them that no earlier, or no later, call has.
        last_of: the sources that no later call has.
    """

    kinked = curved = in_place = False
    fresh = True
    sides: tuple[int, ...] = ()
    made: tuple[Tensor, ...] = ()
    result = signal = -1
    kept: tuple[int, ...] = ()
    first_use: tuple[int, ...] = ()
    last_use: tuple[int, ...] = ()
    last_of: tuple[int, ...] = ()

    def __init__(self, *sources: int) -> None:
        self.sources = sources

    @property
    def keeps_signal(self) -> bool:
        return self.curved or bool(self.sides)

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        raise NotImplementedError

    def keep(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """What later passes need, of source, result and what the forward pass has made."""
        return ()

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        """The signals of the sources."""
        raise NotImplementedError

    def tangent(self, kept: Kept, *tangents: Tensor) -> Tensor:
        return self.forward(kept, *tangents)

    def gradients(self, kept: Kept, signal: Tensor, factors: Factors) -> Iterable[tuple[int, Tensor | None]]:
        """The sides whose gradient is asked for, each with it."""
        return ()

    def adjoint(
        self, kept: Kept, signal: Tensor, factors: Factors, through: bool
    ) -> tuple[tuple[Tensor, ...], Iterable[tuple[int, Tensor | None]]]:
        """Of an ordinary backward pass, the sources' gradients, if they are to go ``through``, and the sides'."""
        return self.backward(kept, signal) if through else (), self.gradients(kept, signal, factors)

    def second_order(
        self, kept: Kept, tangent: Tensor, asked: set[int]
    ) -> tuple[Tensor, int, Tensor, Iterable[tuple[int, Tensor | None]]]:
        """Of a curved call: the result's tangent, and the gradients of <signal, tangent> with respect to a value, which
        is named by its number, and to the sides that are asked for."""
        raise NotImplementedError


class Sum(Call):
    """The sum of a source and another, or a side, each times its factor; both are broadcast.

    Args:
        sources: one or two.
        side: what is added to a single source.
        factors: of the first and of the second summand.
        shapes: of the sources.
    """

    fresh = False

    def __init__(
        self, sources: tuple[int, ...], side: int | None, factors: tuple[float, float], shapes: list[torch.Size]
    ) -> None:
        super().__init__(*sources)
        self.side, self.factors, self.shapes = side, factors, shapes
        self.sides = () if side is None else (side,)

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        a, b = sources if self.side is None else (sources[0], kept[self.side])
        return (a if self.factors[0] == 1 else a * self.factors[0]).add(b, alpha=self.factors[1])

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        signals = [signal.sum_to_size(shape) for shape in self.shapes]
        return tuple([s if factor == 1 else s * factor for s, factor in zip(signals, self.factors, strict=False)])

    def tangent(self, kept: Kept, *tangents: Tensor) -> Tensor:
        if self.side is None:
            return self.forward(kept, *tangents)
        return tangents[0] if self.factors[0] == 1 else tangents[0] * self.factors[0]

    def gradients(self, kept: Kept, signal: Tensor, factors: Factors) -> Iterator[tuple[int, Tensor | None]]:
        if self.side is not None and self.side in factors.asked:
            weighted = factors.weighted(signal)
            if weighted is not None:
                weighted = weighted.sum_to_size(kept[self.side].shape) * self.factors[1]
            yield self.side, weighted


class Scaled(Call):
    """A source times a number."""

    def __init__(self, source: int, factor: float) -> None:
        super().__init__(source)
        self.factor = factor

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        return sources[0] * self.factor

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return (signal * self.factor,)


class Dropout(Call):
    """A source times what the first forward pass draws, as torch does."""

    def __init__(self, source: int, p: float) -> None:
        super().__init__(source)
        self.p = p

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        (x,) = sources
        if self.kept:
            return x * kept[self.kept[0]]
        self.made = (F.dropout(torch.ones_like(x), self.p),)
        return x * self.made[0]

    def keep(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return self.made

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return (signal * kept[self.kept[0]],)


class Reshaped(Call):
    """Another shape in the same order of values."""

    fresh = False

    def __init__(self, source: int, function: Callable[[Tensor], Tensor], shape: torch.Size) -> None:
        super().__init__(source)
        self.function, self.shape = function, shape

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        return self.function(*sources)

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return (signal.reshape(self.shape),)


class Pooled(Call):
    """Means over windows of each channel."""

    kinked = True

    def __init__(self, source: int, pool: Callable[[Tensor], Tensor], back: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(source)
        self.pool, self.back = pool, back

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        return self.pool(*sources)

    def keep(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return (self.back(signal, kept[self.kept[0]]),)


class Padded(Call):
    """Zeros around each sample; negative widths cut off."""

    def __init__(self, source: int, widths: list[int]) -> None:
        super().__init__(source)
        self.widths = widths

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        return F.pad(sources[0], self.widths)

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        return (F.pad(signal, [-width for width in self.widths]),)


class Summed(Call):
    """The sum over dimensions other than the first, times ``factor``."""

    fresh = False

    def __init__(self, source: int, dims: list[int], keepdim: bool, shape: torch.Size, factor: float) -> None:
        super().__init__(source)
        self.dims, self.keepdim, self.shape, self.factor = dims, keepdim, shape, factor

    def forward(self, kept: Kept, *sources: Tensor) -> Tensor:
        summed = sources[0].sum if self.factor == 1 else sources[0].mean
        return summed(self.dims, self.keepdim)

    def backward(self, kept: Kept, signal: Tensor) -> tuple[Tensor, ...]:
        if not self.keepdim:
            for dim in self.dims:
                signal = signal.unsqueeze(dim)
        return ((signal if self.factor == 1 else signal * self.factor).expand(self.shape),)
