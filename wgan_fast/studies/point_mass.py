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

CASES = {"gp": False, "lp": True}
"""Whether the penalty is one-sided."""


@dataclass(frozen=True)
class Settings(EnsembleRun):
    batch: int = 32
    nearest: float = -2.0
    furthest: float = 2.0


# An odd number of positions of the second point mass, so that 0 is among them.
SIZES = {"smoke": Settings(5, 60), "default": Settings(17, 500), "full": Settings(65, 8000, width=64)}


def measure(one_sided: bool, seed: int, settings: Settings) -> dict[str, Any]:
    theta = settings.theta()
    return {
        "theta": theta,
        "js_exact": [jensen_shannon(t) for t in theta],
        "js_gradient_exact": [central_difference(jensen_shannon, t) for t in theta],
        "kl_exact": [0.0 if t == 0 else math.inf for t in theta],
        "w1_primal": [abs(t) for t in theta],  # two point masses have one coupling, which moves mass 1 from 0 to θ
        "w1_gradient_exact": [central_difference(abs, t) for t in theta],
        "w1_critic_expected": [best_estimate(abs(t), settings.lambda_gp) for t in theta],
        **train_and_read(settings, point_masses, settings.batch, features=1, one_sided=one_sided),
    }


def point_masses(members: int, count: int) -> Tensor:
    return torch.zeros(members, count, 1)


def jensen_shannon(theta: float) -> float:
    """JS between δ₀ and δ_θ, from their masses on the joint support {0, θ}."""
    p = torch.tensor([1.0, 0.0], dtype=torch.float64)
    q = p if theta == 0 else p.flip(0)
    of_mixture, *of_parts = torch.special.entr(torch.stack([(p + q) / 2, p, q])).sum(dim=1).tolist()
    return float(of_mixture - sum(of_parts) / 2)


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
        for case, name, style, label in (
            ("lp", f"w1_{kind}critic", {"color": "C0", "marker": "o", "markersize": 7}, "critic trained with lp"),
            ("gp", f"w1_{kind}critic", {"color": "C1", "marker": "x", "markersize": 4}, "critic trained with gp"),
            ("lp", f"js_{kind}discriminator", {"color": "C3", "marker": "s", "markersize": 4}, "discriminator"),
        ):
            first, *_ = axes.plot(
                theta, results.values(case, name).T, linestyle="none", markerfacecolor="white", **style
            )
            first.set_label(f"{label}, each seed")
    legend_below(canvas, left, right, columns=3)
    return canvas


def conclude(results: Results) -> str:
    theta = results.values("lp", "theta")[0]
    apart, sign = theta != 0, np.sign(theta[theta != 0])

    def found(name: str, case: str = "lp") -> Array:
        return results.values(case, name)[:, apart]

    js = found("js_exact")
    error = np.abs(found("w1_pot") - found("w1_primal")).max()
    ratio = (found("w1_critic") / found("w1_critic_expected")).mean(1)
    right = {case: (found("w1_gradient_critic", case) * sign > 0.5).mean() for case in CASES}
    return (
        f"For every θ ≠ 0 JS is between {js.min():.6f} and {js.max():.6f} (log 2 = {math.log(2):.6f}) with derivative "
        f"{np.abs(found('js_gradient_exact')).max():.1g}, KL is infinite, and POT's W1 is |θ| to within {error:.1g}. "
        f"Critics under the one-sided penalty estimate {spread(ratio, 3)} times the value its optimum has, and push "
        f"towards 0 in {right['lp']:.0%} of the cases against {right['gp']:.0%} under the two-sided one, while no "
        f"discriminator's derivative exceeds {np.abs(found('js_gradient_discriminator')).max():.2g}."
    )
