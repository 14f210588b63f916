"""The toy distributions of Gulrajani et al. 2017 (WGAN-GP, figure 2), as endless streams of points."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DrawPoints = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Modes:
    """The components of a mixture of isotropic Gaussians: ``centers`` (modes, 2) and their common ``std``."""

    centers: Tensor
    std: float


class PointStream:
    """Endless independent draws from a known two-dimensional distribution; training and held-out data differ
    only in the random generator that draws them.

    Attributes:
        sample_shape: ``(2,)``.
        modes: the mixture's components where the distribution is one, else None.
    """

    sample_shape: tuple[int, ...] = (2,)

    def __init__(self, name: str, draw: DrawPoints, modes: Modes | None = None) -> None:
        self.name = name
        self.modes = modes
        self._draw = draw

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """``(size, 2)`` float32 points on the generator's device."""
        return self._draw(size, generator)

    held_out = batch


def gaussian_mixture(name: str, centers: Tensor, std: float) -> PointStream:
    """Equal-weight mixture of isotropic Gaussians at ``centers`` (modes, 2)."""
    centers_on = functools.cache(centers.to)  # a copy to a GPU in every batch would synchronise

    def draw(size: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        component = torch.randint(len(centers), (size,), generator=generator, device=device)
        noise = torch.randn(size, 2, generator=generator, device=device)
        return centers_on(device)[component] + std * noise

    return PointStream(name, draw, Modes(centers, std))


def eight_gaussians() -> PointStream:
    """Centers on the circle of radius 2, std 0.02, everything divided by 1.414."""
    angle = torch.arange(8) * (math.pi / 4)
    return gaussian_mixture("8gaussians", 2 * torch.stack([angle.cos(), angle.sin()], dim=1) / 1.414, 0.02 / 1.414)


def twenty_five_gaussians() -> PointStream:
    """Centers on the grid {-4, -2, 0, 2, 4}², std 0.05, everything divided by 2.828."""
    axis = 2 * torch.arange(-2.0, 3.0)
    return gaussian_mixture("25gaussians", torch.cartesian_prod(axis, axis) / 2.828, 0.05 / 2.828)


def swiss_roll() -> PointStream:
    """scikit-learn's ``make_swiss_roll(noise=0.25)``, dimensions 0 and 2, divided by 7.5."""

    def draw(size: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        t = 1.5 * math.pi * (1 + 2 * torch.rand(size, generator=generator, device=device))
        roll = torch.stack([t * t.cos(), t * t.sin()], dim=1)
        return (roll + 0.25 * torch.randn(size, 2, generator=generator, device=device)) / 7.5

    return PointStream("swissroll", draw)


STREAMS = {"8gaussians": eight_gaussians, "25gaussians": twenty_five_gaussians, "swissroll": swiss_roll}
