"""Two distributions moving apart: JS, KL and W1, and the gradients that a generator gets from them.

Three pairs, from supports that always overlap to supports that never do: normal distributions N(0, σ²) and N(θ, σ²);
uniform ones on [0, 1] and [θ, θ + 1], apart from θ = 1 on; and the parallel lines of Arjovsky et al. 2017, example 1
and figure 1: (0, z) and (θ, z) with z uniform. W1 is |θ| for all of them. The exact values are compared with
measurements on samples: W1 by POT and by critics under the one-sided penalty, JS and KL by discriminators. The
optimum of the penalty is θ (1 + θ / (2 λ)), as in `point_mass`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wgan_fast.studies.ensemble import EnsembleRun, best_estimate, train_and_read
from wgan_fast.studies.study import Array, Results, by_name, draw_points, legend_below, panels, spread

SIGMA = 0.5
LOG_2 = math.log(2)
GRID = 20_001


@dataclass(frozen=True)
class Settings(EnsembleRun):
    test_samples: int = 500


SIZES = {
    "smoke": Settings(4, 30, test_samples=50),
    "default": Settings(13, 500),
    "full": Settings(31, 5000, width=64, batch=512, test_samples=2000),
}


class Normal:
    """N(0, σ²) and its copies shifted by θ >= 0. Divergences come with their derivatives in θ, NaN where there is
    none."""

    title = "normal, σ = 0.5: supports overlap"
    features = 1

    def draw(self, members: int, count: int) -> Tensor:
        """``(members, count, features)`` points at θ = 0."""
        return SIGMA * torch.randn(members, count, 1)

    def jensen_shannon(self, theta: float) -> tuple[float, float]:
        """By the trapezoidal rule, which converges exponentially here."""
        x = np.linspace(-12 * SIGMA, theta + 12 * SIGMA, GRID)
        log_p, log_q = -((x / SIGMA) ** 2) / 2, -(((x - theta) / SIGMA) ** 2) / 2
        scale = 1 / (SIGMA * math.sqrt(2 * math.pi))
        log_m = np.logaddexp(log_p, log_q) - LOG_2
        p, q = scale * np.exp(log_p), scale * np.exp(log_q)
        js = np.trapezoid(p * (log_p - log_m) + q * (log_q - log_m), x) / 2
        # By the envelope theorem only q moves: dJS/dθ = ½ ∫ (dq/dθ) log(q / m).
        derivative = np.trapezoid(q * (x - theta) / SIGMA**2 * (log_q - log_m), x) / 2
        return float(js), float(derivative)

    def kullback_leibler(self, theta: float) -> tuple[float, float]:
        return theta**2 / (2 * SIGMA**2), theta / SIGMA**2


class Uniform:
    """Uniform on [0, 1]."""

    title = "uniform: supports part at θ = 1"
    features = 1

    def draw(self, members: int, count: int) -> Tensor:
        return torch.rand(members, count, 1)

    def jensen_shannon(self, theta: float) -> tuple[float, float]:
        return LOG_2 * min(theta, 1.0), LOG_2 if 0 < theta < 1 else 0.0 if theta > 1 else math.nan

    def kullback_leibler(self, theta: float) -> tuple[float, float]:
        return math.inf if theta > 0 else 0.0, math.nan


class Lines(Uniform):
    """(0, z) with z uniform on [0, 1]."""

    title = "parallel lines: never overlap"
    features = 2

    def draw(self, members: int, count: int) -> Tensor:
        return nn.functional.pad(super().draw(members, count), (1, 0))

    def jensen_shannon(self, theta: float) -> tuple[float, float]:
        return (LOG_2, 0.0) if theta > 0 else (0.0, math.nan)


Family = Normal | Uniform
CASES: dict[str, Family] = {"normal": Normal(), "uniform": Uniform(), "lines": Lines()}


def exact(family: Family, theta: float) -> dict[str, float]:
    """All divergences and their derivatives, by name."""
    found = {"js": family.jensen_shannon(theta), "kl": family.kullback_leibler(theta)}
    found["w1"] = theta, 1.0 if theta > 0 else math.nan
    return {f"{name}{kind}_exact": pair[i] for name, pair in found.items() for i, kind in enumerate(("", "_gradient"))}


def measure(family: Family, seed: int, settings: Settings) -> dict[str, Any]:
    theta = settings.theta()
    return {
        "theta": theta,
        **by_name([exact(family, t) for t in theta]),
        **train_and_read(settings, family.draw, settings.test_samples, features=family.features, one_sided=True),
    }


COLORS = {"w1": "C0", "js": "C3", "kl": "C2"}
MEASURED = (
    {
        "w1_pot": ("w1", "+", "W1 of samples (POT)"),
        "kl_discriminator": ("kl", "s", "KL by discriminator"),
        "w1_critic": ("w1", "o", "W1 by critic"),
        "js_discriminator": ("js", "s", "JS by discriminator"),
    },
    {
        "w1_gradient_critic": ("w1", "o", "W1 by critic"),
        "js_gradient_discriminator": ("js", "s", "JS by discriminator"),
    },
)
"""The measurements in the upper and the lower panels: what they measure, marker and label."""


def draw(results: Results) -> Any:
    canvas, grid = panels(11, 6.4, 2, 3, sharex=True, sharey="row")
    lambda_gp = results.settings.lambda_gp
    dense = np.linspace(0, results.settings.furthest, 301)
    steeper = best_estimate(dense, lambda_gp), 1 + dense / lambda_gp / 2
    for rows, (case, family) in zip(grid.T, CASES.items(), strict=True):
        exact_values = by_name([exact(family, t) for t in dense.tolist()])
        theta = results.values(case, "theta")[0]
        for axes, kind, best, measured in zip(rows, ("", "_gradient"), steeper, MEASURED, strict=True):
            axes.plot(dense, best, color="C0", linestyle="dotted", label="W1 (1 + θ / 2λ), penalty's optimum")
            curves = {name: exact_values[f"{name}{kind}_exact"] for name in COLORS}
            infinite = {name for name, curve in curves.items() if math.isinf(curve[-1])}
            for name, color in COLORS.items():
                axes.plot(dense, curves[name], color=color, label=f"{name.upper()} exact")
                if name in infinite:
                    text = f"{name.upper()} = ∞ for θ > 0"
                    axes.text(0.97, 0.93, text, transform=axes.transAxes, ha="right", color=color)
            for number, (name, marker, label) in measured.items():
                if name not in infinite:
                    style = {"color": COLORS[name], "marker": marker, "label": label, "markerfacecolor": "white"}
                    draw_points(axes, theta, results.values(case, number), **style)
        rows[0].set(title=family.title, ylim=(-0.2, 4))
        rows[1].set(xlabel="distance θ", ylim=(-0.2, 2.2))
    grid[0, 0].set_ylabel("divergence")
    grid[1, 0].set_ylabel("derivative in θ")
    legend_below(canvas, grid[0, 0], columns=4)
    return canvas


def conclude(results: Results) -> str:
    def apart(name: str) -> list[Array]:
        """The values where the supports are apart, of the two cases that have such places."""
        cases = ("uniform", "lines")
        return [results.values(c, name)[:, results.values(c, "js_gradient_exact")[0] == 0] for c in cases]

    js_pull = max(np.abs(slopes).max() for slopes in apart("js_gradient_discriminator"))
    js_error = max(np.abs(js - LOG_2).max() for js in apart("js_discriminator"))
    w1_slope = np.mean([slopes.mean(1) for slopes in apart("w1_gradient_critic")], axis=0)
    far = results.values("normal", "js_gradient_discriminator")[:, -1]
    near = results.values("normal", "js_gradient_discriminator").max(1)
    pot = np.concatenate([np.abs(results.values(c, "w1_pot") - results.values(c, "w1_exact")) for c in CASES])
    return (
        f"Where the supports are apart, discriminators measure JS within {js_error:.2g} of log 2 and their derivative "
        f"is at most {js_pull:.2g}, while the critics' is {spread(w1_slope)} (theory: 0 and 1). "
        f"Between overlapping normal distributions JS does pull, by up to {spread(near)}, but only by {spread(far)} at "
        f"θ = {results.settings.furthest:g}; POT's W1 of samples is within {pot.max():.2g} of θ throughout."
    )
