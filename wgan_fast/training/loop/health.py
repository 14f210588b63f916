"""Health of a training: a check for finite values in every iteration without synchronising; slopes and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from wgan_fast.functional import clip_bounds
from wgan_fast.penalties import gradient_penalty
from wgan_fast.training.errors import UserError

UNREAD_LIMIT = 100
"""Iterations after which the figures are read even if nothing is logged: the delay until divergence is noticed."""


class NonFinite(UserError):
    """A quantity is NaN or infinite; the message says which, and at which iteration."""


class Watch:
    """Collects the figures of every iteration on the device; reads them all at once, now and then.

    An iteration costs one small kernel and no synchronisation; the first one that diverged is still identified.

    Args:
        reduce: applied to the ``(iterations, figures)`` tensor before it is read, as the mean over processes.
    """

    def __init__(self, reduce: Callable[[Tensor], Tensor] = lambda figures: figures) -> None:
        self._reduce = reduce
        self._names: list[str] = []
        self._rows: list[tuple[int, Tensor]] = []

    @property
    def full(self) -> bool:
        """Whether it is time to `read`."""
        return len(self._rows) >= UNREAD_LIMIT

    def note(self, iteration: int, figures: dict[str, Tensor | None]) -> None:
        """Keep an iteration's 0-dimensional figures; the entries that are None are left out, the same ones always."""
        present = {name: value for name, value in figures.items() if value is not None}
        self._names = list(present)
        self._rows.append((iteration, torch.stack([value.detach() for value in present.values()])))

    def read(self) -> dict[str, float]:
        """The last iteration's figures; the device has finished when it returns.

        Raises:
            NonFinite: of the first iteration since the last call in which a figure is not finite.
        """
        if not self._rows:
            return {}
        iterations = [iteration for iteration, _ in self._rows]
        rows = self._reduce(torch.stack([row for _, row in self._rows])).tolist()
        self._rows = []
        for iteration, row in zip(iterations, rows, strict=True):
            for name, value in zip(self._names, row, strict=True):
                if not math.isfinite(value):
                    raise NonFinite(f"{name} is {value} at iteration {iteration}")
        return dict(zip(self._names, rows[-1], strict=True))


def gradient_norm(
    critic: nn.Module, real: Tensor, fake: Tensor, condition: Sequence[Tensor], random: torch.Generator
) -> float:
    """Mean norm of the critic's input gradients at points between real and generated samples."""
    critic.eval()  # spectral normalisation iterates in training mode
    with torch.no_grad():
        _, norms = gradient_penalty(critic, real, fake, critic_args=condition, generator=random, return_norms=True)
    critic.train()
    return float(norms.mean())


def weight_saturation(critic: nn.Module, clip_value: float | tuple[float, float]) -> float:
    """Share of the critic's weights that lie at a bound of the clipping, within a thousandth of it."""
    low, high = clip_bounds(clip_value)
    margin = 1e-3 * (high - low) / 2
    with torch.no_grad():
        flat = torch.cat([p.detach().flatten() for p in critic.parameters()])
        return ((flat <= low + margin) | (flat >= high - margin)).float().mean().item()
