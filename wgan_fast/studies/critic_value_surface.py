"""Optimal critics in the plane (Gulrajani et al. 2017, figure 2): weight clipping, gradient penalty, and the exact one.

The generator is fixed to real samples plus N(0, 1), as in the paper, which says that clipped critics miss the higher
moments of the data and model too simple functions. The exact critic is Kantorovich's: POT solves the transport problem
between n real and n generated points, and its potentials v extend to the plane as f(x) = min_j (‖x - y_j‖ - v_j), a
1-Lipschitz function with E[f(real)] - E[f(fake)] = W1 (Villani 2008, theorem 5.10).

λ = 1 lies between the 0.1 of the paper's toys, under which slopes of 10 are worth their penalty, and its 10, which
keeps the critic of a thousand steps from bending. Surfaces are compared up to scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wgan_fast.penalties import Critic
from wgan_fast.studies.probes import dual_estimate, input_gradient_norms, lipschitz_constant, train_against_fixed
from wgan_fast.studies.study import Array, Results, panels, spread
from wgan_fast.studies.toy_runs import Options, ToyRun, constrained
from wgan_fast.training.data.sets import load_data
from wgan_fast.training.errors import require
from wgan_fast.training.models.pairs import build_models

KINDS: dict[str, Options | None] = {**constrained("clip", "gp"), "exact": None}
DATA = ("8gaussians", "25gaussians", "swissroll")
CASES = {f"{kind} {data}": (data, options) for kind, options in KINDS.items() for data in DATA}
PLANE = 2.5


@dataclass(frozen=True)
class Settings(ToyRun):
    width: int = 128
    batch: int = 256
    learning_rate: float = 1e-3
    clip_learning_rate: float = 5e-4
    clip_value: float = 0.01
    lambda_gp: float = 1.0
    samples: int = 1200
    resolution: int = 60


SIZES = {
    "smoke": Settings(20, width=16, batch=32, samples=50, resolution=8),
    "default": Settings(1000),
    "full": Settings(20_000, width=512, samples=2000, resolution=128),
}


@dataclass(frozen=True)
class ExactCritic:
    """The optimal 1-Lipschitz function between two samples; ``w1`` is what it attains."""

    fake: Tensor
    potentials: Tensor
    w1: float

    def __call__(self, points: Tensor) -> Tensor:
        return (torch.cdist(points, self.fake) - self.potentials).min(dim=1).values


def exact_critic(real: Tensor, fake: Tensor) -> ExactCritic:
    """Kantorovich's potential between two samples ``(n, 2)``, from POT's linear program."""
    ot = require("ot", "the exact critic")
    cost = torch.cdist(real.double(), fake.double()).numpy()
    w1, log = ot.emd2([], [], cost, numItermax=5_000_000, log=True, return_matrix=False)
    return ExactCritic(fake, torch.from_numpy(log["v"]).to(fake), float(w1))


def measure(case: tuple[str, Options | None], seed: int, settings: Settings) -> dict[str, Any]:
    name, options = case
    data = load_data(name)
    random = torch.Generator().manual_seed(seed)

    def samples(count: int = settings.batch) -> tuple[Tensor, Tensor]:
        noise = torch.randn(count, 2, generator=random)
        return data.batch(count, random), data.batch(count, random) + noise

    real, fake = samples(settings.samples)
    exact = exact_critic(real, fake)
    axis = torch.linspace(-PLANE, PLANE, settings.resolution)
    plane = torch.cartesian_prod(axis, axis)
    points = torch.cat([real, fake])
    if options is None:
        critic: Critic = exact
        lipschitz, norms = 1.0, torch.ones(1)
    else:
        critic = build_models("mlp", (2,), 2, settings.width).critic
        train_against_fixed(critic, settings.config(name, seed, **options), samples, settings.iterations)
        lipschitz, norms = lipschitz_constant(critic, real, fake), input_gradient_norms(critic, points)
    gap = dual_estimate(critic, real, fake)
    with torch.no_grad():
        surface, values = critic(plane), critic(points)
    return {
        "w1_exact": exact.w1,
        "estimate": gap,
        "lipschitz_constant": lipschitz,
        "share_of_w1": gap / (lipschitz * exact.w1),
        "correlation_with_exact": float(np.corrcoef(values.numpy(), exact(points).numpy())[0, 1]),
        "gradient_norm_mean": float(norms.mean()),
        "gradient_norm_std": float(norms.std(correction=0)),
        "surface": surface.reshape(settings.resolution, -1),
        "real": real[:200],
    }


def draw(results: Results) -> Any:
    canvas, grid = panels(9, 9.6, 3, 3, lines=False, sharex=True, sharey=True)
    settings = results.settings
    titles = {
        "clip": f"weight clipping, c = {settings.clip_value:g}",
        "gp": f"gradient penalty, λ = {settings.lambda_gp:g}",
        "exact": "exact (Kantorovich)",
    }
    axis = np.linspace(-PLANE, PLANE, settings.resolution)
    for row, kind in zip(grid, KINDS, strict=True):
        row[0].set_ylabel(titles[kind])
        for axes, name in zip(row, DATA, strict=True):
            case = f"{kind} {name}"
            surface = results.values(case, "surface")[0].T
            axes.contourf(axis, axis, surface, levels=20, cmap="viridis")
            axes.contour(axis, axis, surface, levels=20, colors="white", linewidths=0.4, linestyles="solid")
            axes.scatter(*results.values(case, "real")[0].T, s=5, color="orange", linewidths=0)
            axes.set(xlim=(-PLANE, PLANE), ylim=(-PLANE, PLANE), aspect="equal")
            if kind != "exact":
                share, match = (results.values(case, n) for n in ("share_of_w1", "correlation_with_exact"))
                text = f"{share.mean():.0%} of L·W1, r = {match.mean():.2f}"
                axes.text(0.5, 0.02, text, transform=axes.transAxes, ha="center", color="white", fontsize=9)
    for axes, name in zip(grid[0], DATA, strict=True):
        axes.set_title(name)
    canvas.supxlabel(
        "contours of the critic, bright = high; real points orange; L: measured Lipschitz constant; "
        "r: correlation with the exact critic",
        fontsize=9,
    )
    return canvas


def conclude(results: Results) -> str:
    def over_data(kind: str, name: str) -> Array:
        mean: Array = np.mean([results.values(f"{kind} {data}", name) for data in DATA], axis=0)
        return mean

    sentences = []
    for kind, full in (("gp", "the gradient penalty"), ("clip", "weight clipping")):
        norms = over_data(kind, "gradient_norm_std") / over_data(kind, "gradient_norm_mean")
        sentences.append(
            f"Under {full} the critic's gap is {spread(over_data(kind, 'share_of_w1'))} of the most that its Lipschitz "
            f"constant allows, its values correlate with the exact critic's by "
            f"{spread(over_data(kind, 'correlation_with_exact'))}, and its gradient norm varies by {spread(norms)} of "
            "its mean."
        )
    return " ".join(sentences)
