"""Two point masses, δ₀ and δ_θ (Arjovsky et al. 2017, example 1, in one dimension).

Exact: JS = log 2 and KL = ∞ for every θ ≠ 0, so neither has a gradient; W1 = |θ|, whose gradient is sign(θ). These
are compared with trained networks. Under the penalty λ (s - 1)² a critic of slope s gains s |θ|, so the best slope
is 1 + |θ| / (2 λ), and the estimate |θ| (1 + |θ| / (2 λ)). The two-sided penalty has a second valley at slopes near
-1, separated from the first on a line by a ridge of height λ; the one-sided penalty (lp) has no ridge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wgan_fast.studies.ensemble import EnsembleRun, best_estimate, train_and_read
from wgan_fast.studies.study import Array, Results, legend_below, panels, spread

CASES = ("gp", "lp")


@dataclass(frozen=True)
class Settings(EnsembleRun):
    batch: int = 32
    nearest: float = -2.0
    furthest: float = 2.0


# An odd number of positions of the second point mass, so that 0 is among them.
SIZES = {"smoke": Settings(5, 60), "default": Settings(17, 500), "full": Settings(65, 8000, width=64)}


def measure(case: str, seed: int, settings: Settings) -> dict[str, Any]:
    theta = settings.theta()
    real = torch.zeros(len(theta), settings.batch, 1)
    fake = torch.tensor(theta).view(-1, 1, 1).expand_as(real).contiguous()

    def samples() -> tuple[Tensor, Tensor]:
        return real, fake

    return {
        "theta": theta,
        "js_exact": [jensen_shannon(t) for t in theta],
        "js_gradient_exact": [central_difference(jensen_shannon, t) for t in theta],
        "kl_exact": [0.0 if t == 0 else math.inf for t in theta],
        "w1_primal": [abs(t) for t in theta],  # two point masses have one coupling, which moves mass 1 from 0 to θ
        "w1_gradient_exact": [central_difference(abs, t) for t in theta],
        "w1_critic_expected": [best_estimate(abs(t), settings.lambda_gp) for t in theta],
        **train_and_read(settings, samples, samples, features=1, one_sided=case == "lp"),
    }


def jensen_shannon(theta: float) -> float:
    """JS between δ₀ and δ_θ, from their masses on the joint support {0, θ}."""
    masses = {0.0: [1.0, 0.0]}
    masses.setdefault(theta, [0.0, 0.0])[1] += 1.0
    p, q = np.array(list(masses.values())).T
    m = (p + q) / 2
    return float(_entropy(m) - (_entropy(p) + _entropy(q)) / 2)


def _entropy(p: Array) -> float:
    return -float(sum(x * math.log(x) for x in p if x > 0))


def central_difference(function: Callable[[float], float], theta: float, step: float = 1e-3) -> float:
    return (function(theta + step) - function(theta - step)) / (2 * step)


def draw(results: Results) -> Any:
    theta = results.values("lp", "theta")[0]
    dense = np.linspace(theta[0], theta[-1], 400)
    expected = best_estimate(np.abs(dense), results.settings.lambda_gp)
    canvas, (left, right) = panels(10, 5, 1, 2)
    left.plot(dense, np.abs(dense), color="C0", label="W1 = |θ| (primal, POT)")
    left.plot(dense, expected, color="C0", linestyle="dotted", label="|θ| (1 + |θ| / 2λ), the penalty's optimum")
    left.axhline(math.log(2), color="C3", label="JS = log 2 for θ ≠ 0")
    left.plot([], [], " ", label="KL = ∞ for θ ≠ 0")
    left.set(title="divergence between δ₀ and δ_θ", xlabel="θ", ylabel="divergence")
    right.plot(dense, np.sign(dense), color="C0", label="W1: sign(θ)")
    right.axhline(0, color="C3", label="JS: 0")
    right.set(title="derivative in θ: the generator's gradient", xlabel="θ", ylabel="derivative")
    for axes, kind in ((left, ""), (right, "gradient_")):
        for case, color, marker in (("lp", "C0", "o"), ("gp", "C1", "x")):
            style = {"marker": marker, "color": color, "markersize": 7 if marker == "o" else 4}
            seeds = results.values(case, f"w1_{kind}critic")
            _draw_seeds(axes, theta, seeds, label=f"critic trained with {case}, each seed", **style)
        seeds = results.values("lp", f"js_{kind}discriminator")
        style = {"marker": "s", "color": "C3", "markersize": 4}
        _draw_seeds(axes, theta, seeds, label="discriminator, each seed", **style)
    legend_below(canvas, left, right, columns=3)
    return canvas


def _draw_seeds(axes: Any, x: Array, seeds: Array, *, label: str, **style: Any) -> None:
    lines = axes.plot(x, seeds.T, linestyle="none", markerfacecolor="white", **style)
    lines[0].set_label(label)


def conclude(results: Results) -> str:
    theta = results.values("lp", "theta")[0]
    apart, sign = theta != 0, np.sign(theta[theta != 0])
    w1 = results.values("lp", "w1_pot")[:, apart]
    js = results.values("lp", "js_exact")[:, apart]
    js_slope = np.abs(results.values("lp", "js_gradient_exact")[:, apart]).max()
    error = np.abs(w1 - results.values("lp", "w1_primal")[:, apart]).max()
    expected = results.values("lp", "w1_critic_expected")[:, apart]
    ratio = (results.values("lp", "w1_critic")[:, apart] / expected).mean(1)
    right = {case: (results.values(case, "w1_gradient_critic")[:, apart] * sign > 0.5).mean() for case in ("lp", "gp")}
    pull = np.abs(results.values("lp", "js_gradient_discriminator")[:, apart]).max()
    return (
        f"For every θ ≠ 0 JS is between {js.min():.6f} and {js.max():.6f} (log 2 = {math.log(2):.6f}) with derivative "
        f"{js_slope:.1g}, KL is infinite, and POT's W1 is |θ| to within {error:.1g}. "
        f"Critics under the one-sided penalty estimate {spread(ratio, 3)} times the value its optimum has, and push "
        f"towards 0 in {right['lp']:.0%} of the cases against {right['gp']:.0%} under the two-sided one, while no "
        f"discriminator's derivative exceeds {pull:.2g}."
    )
