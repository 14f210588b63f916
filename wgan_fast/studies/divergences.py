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
from torch import Tensor

from wgan_fast.studies.ensemble import EnsembleRun, best_estimate, train_and_read
from wgan_fast.studies.study import Results, draw_points, figure, legend_below, spread

SIGMA = 0.5
LOG_2 = math.log(2)
GRID = 20_001


@dataclass(frozen=True)
class Settings(EnsembleRun):
    test_samples: int = 500

    def theta(self) -> list[float]:
        return torch.linspace(0, self.furthest, self.positions).tolist()


SIZES = {
    "smoke": Settings(4, 30, test_samples=50),
    "default": Settings(13, 500),
    "full": Settings(31, 5000, width=64, batch=512, test_samples=2000),
}


def cases(settings: Settings) -> list[str]:
    return ["normal", "uniform", "lines"]


def measure(case: str, seed: int, settings: Settings) -> dict[str, Any]:
    theta = settings.theta()
    features = 2 if case == "lines" else 1
    shift = torch.zeros(len(theta), 1, features)
    shift[:, 0, 0] = torch.tensor(theta)

    def samples(count: int = settings.batch) -> tuple[Tensor, Tensor]:
        real, fake = (_draw(case, len(theta), count) for _ in range(2))
        return real, fake + shift

    def test_samples() -> tuple[Tensor, Tensor]:
        return samples(settings.test_samples)

    names = ("js_exact", "js_gradient_exact", "kl_exact", "kl_gradient_exact", "w1_exact", "w1_gradient_exact")
    return {
        "theta": theta,
        **dict(zip(names, zip(*(exact(case, t) for t in theta), strict=True), strict=True)),
        **train_and_read(settings, samples, test_samples, features=features, one_sided=True),
    }


def _draw(case: str, members: int, count: int) -> Tensor:
    """``(members, count, features)`` points at θ = 0."""
    if case == "normal":
        return SIGMA * torch.randn(members, count, 1)
    if case == "uniform":
        return torch.rand(members, count, 1)
    return torch.stack([torch.zeros(members, count), torch.rand(members, count)], dim=-1)


def exact(case: str, theta: float) -> tuple[float, float, float, float, float, float]:
    """JS, dJS/dθ, KL(real, generated), dKL/dθ, W1, dW1/dθ for θ >= 0; NaN where a derivative does not exist."""
    slope = 1.0 if theta > 0 else math.nan
    if case == "normal":
        js, js_slope = _normal_jensen_shannon(theta)
        return js, js_slope, theta**2 / (2 * SIGMA**2), theta / SIGMA**2, theta, slope
    kl = math.inf if theta > 0 else 0.0
    if case == "lines":
        return (LOG_2 if theta > 0 else 0.0), (0.0 if theta > 0 else math.nan), kl, math.nan, theta, slope
    inside = LOG_2 if 0 < theta < 1 else math.nan
    return LOG_2 * min(theta, 1.0), (0.0 if theta > 1 else inside), kl, math.nan, theta, slope


def _normal_jensen_shannon(theta: float) -> tuple[float, float]:
    """JS and its derivative by the trapezoidal rule, which converges exponentially here."""
    x = np.linspace(-12 * SIGMA, theta + 12 * SIGMA, GRID)
    log_p, log_q = -((x / SIGMA) ** 2) / 2, -(((x - theta) / SIGMA) ** 2) / 2
    scale = 1 / (SIGMA * math.sqrt(2 * math.pi))
    log_m = np.logaddexp(log_p, log_q) - LOG_2
    p, q = scale * np.exp(log_p), scale * np.exp(log_q)
    js = np.trapezoid(p * (log_p - log_m) + q * (log_q - log_m), x) / 2
    # By the envelope theorem only q moves: dJS/dθ = ½ ∫ (dq/dθ) log(q / m).
    derivative = np.trapezoid(q * (x - theta) / SIGMA**2 * (log_q - log_m), x) / 2
    return float(js), float(derivative)


TITLES = {
    "normal": "normal, σ = 0.5: supports overlap",
    "uniform": "uniform: supports part at θ = 1",
    "lines": "parallel lines: never overlap",
}


def draw(results: Results) -> Any:
    canvas = figure(11, 6.4)
    rows = canvas.subplots(2, 3, sharex=True, sharey="row")
    lambda_gp = results.settings.lambda_gp
    for column, case in enumerate(results.cases()):
        dense = np.linspace(0, results.settings.furthest, 301)
        curves = np.array([exact(case, float(t)) for t in dense]).T
        steeper = best_estimate(dense, lambda_gp), 1 + dense / lambda_gp / 2
        for row, (axes, kind) in enumerate(zip(rows[:, column], ("", "gradient_"), strict=True)):
            axes.plot(dense, steeper[row], color="C0", linestyle="dotted", label="W1 (1 + θ / 2λ), penalty's optimum")
            for place, name, color in ((4, "W1", "C0"), (0, "JS", "C3"), (2, "KL", "C2")):
                curve = np.where(np.isfinite(curves[place + row]), curves[place + row], np.nan)
                axes.plot(dense, curve, color=color, label=f"{name} exact")
            measured = [("w1_pot", "C0", "+", "W1 of samples (POT)")] if row == 0 else []
            if row == 0 and case == "normal":
                measured.append(("kl_discriminator", "C2", "s", "KL by discriminator"))
            elif row == 0:
                axes.text(0.97, 0.93, "KL = ∞ for θ > 0", transform=axes.transAxes, ha="right", color="C2")
            measured.append((f"w1_{kind}critic", "C0", "o", "W1 by critic"))
            measured.append((f"js_{kind}discriminator", "C3", "s", "JS by discriminator"))
            theta = results.values(case, "theta")[0]
            for name, color, marker, label in measured:
                style = {"color": color, "marker": marker, "label": label, "markerfacecolor": "white"}
                draw_points(axes, theta, results.values(case, name), **style)
            axes.grid(alpha=0.3)
        rows[0, column].set(title=TITLES[case], ylim=(-0.2, 4))
        rows[1, column].set(xlabel="distance θ", ylim=(-0.2, 2.2))
    rows[0, 0].set_ylabel("divergence")
    rows[1, 0].set_ylabel("derivative in θ")
    legend_below(canvas, rows[0, 0], columns=4)
    return canvas


def conclude(results: Results) -> str:
    apart = {c: results.values(c, "js_gradient_exact")[0] == 0 for c in results.cases() if c != "normal"}
    js_pull = max(np.abs(results.values(c, "js_gradient_discriminator")[:, where]).max() for c, where in apart.items())
    js_error = max(np.abs(results.values(c, "js_discriminator")[:, where] - LOG_2).max() for c, where in apart.items())
    w1_slope = np.mean(
        [results.values(c, "w1_gradient_critic")[:, where].mean(1) for c, where in apart.items()], axis=0
    )
    far = results.values("normal", "js_gradient_discriminator")[:, -1]
    near = results.values("normal", "js_gradient_discriminator").max(1)
    pot = np.concatenate([np.abs(results.values(c, "w1_pot") - results.values(c, "w1_exact")) for c in results.cases()])
    return (
        f"Where the supports are apart, discriminators measure JS within {js_error:.2g} of log 2 and their derivative "
        f"is at most {js_pull:.2g}, while the critics' is {spread(w1_slope)} (theory: 0 and 1). "
        f"Between overlapping normal distributions JS does pull, by up to {spread(near)}, but only by {spread(far)} at "
        f"θ = {results.settings.furthest:g}; POT's W1 of samples is within {pot.max():.2g} of θ throughout."
    )
