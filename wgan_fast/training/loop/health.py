"""Whether a training is still finite, asked without waiting for the device in every iteration."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

UNREAD_LIMIT = 100
"""Iterations after which the figures are read even if nothing is logged: how late a divergence is noticed."""


class NonFinite(ArithmeticError):
    """``quantity`` is NaN or infinite at ``iteration``; the message says so."""

    def __init__(self, quantity: str, iteration: int, value: float | None = None) -> None:
        seen = "holds NaN or infinite values" if value is None else f"is {value}"
        super().__init__(f"{quantity} {seen} at iteration {iteration}")
        self.quantity = quantity
        self.iteration = iteration


class Watch:
    """Collects the figures of every iteration on the device; reads them all at once, now and then.

    An iteration costs one small kernel and no wait, and still the first one that diverged is known by its number.

    Args:
        reduce: applied to the ``(iterations, figures)`` tensor before it is read, as the mean over processes.
    """

    def __init__(self, reduce: Callable[[Tensor], Tensor] = lambda figures: figures) -> None:
        self._reduce = reduce
        self._names: list[str] = []
        self._iterations: list[int] = []
        self._rows: list[Tensor] = []

    @property
    def full(self) -> bool:
        """Whether it is time to `read`."""
        return len(self._rows) >= UNREAD_LIMIT

    def note(self, iteration: int, figures: dict[str, Tensor | None]) -> None:
        """Keep an iteration's 0-dimensional figures; the entries that are None are left out, the same ones always."""
        present = {name: value for name, value in figures.items() if value is not None}
        self._names = list(present)
        self._iterations.append(iteration)
        self._rows.append(torch.stack([value.detach() for value in present.values()]))

    def read(self) -> dict[str, float]:
        """The last iteration's figures; the device has finished when it returns.

        Raises:
            NonFinite: of the first iteration since the last call in which a figure is not finite.
        """
        if not self._rows:
            return {}
        rows = self._reduce(torch.stack(self._rows)).tolist()
        iterations, self._iterations, self._rows = self._iterations, [], []
        for iteration, row in zip(iterations, rows, strict=True):
            for name, value in zip(self._names, row, strict=True):
                if not math.isfinite(value):
                    raise NonFinite(name, iteration, value)
        return dict(zip(self._names, rows[-1], strict=True))
