"""The critic's weights over training (Gulrajani et al. 2017, figure 1, right): weight clipping against the penalty.

The paper's claim: clipping pushes the weights towards the two bounds ±c, which the penalty does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from wgan_fast.studies.study import Results, draw_band, panels, spread
from wgan_fast.studies.toy_runs import Options, ToyRun, constrained, watch
from wgan_fast.training.data.sets import load_data
from wgan_fast.training.loop.health import weight_saturation
from wgan_fast.training.loop.trainer import Trainer

CLIPPED: dict[str, Options] = {f"clip {c:g}": {"constraint": "clip", "clip_value": c} for c in (0.01, 0.1)}
CASES = CLIPPED | constrained("gp")
BINS = 61
REACH = 1.5
SIZES = {
    "smoke": ToyRun(4, looks=2, width=8, batch=16, learning_rate=5e-4, clip_learning_rate=5e-4),
    "default": ToyRun(500, looks=20, learning_rate=5e-4),
    "full": ToyRun(20_000, looks=50, width=512, batch=256, learning_rate=1e-4, clip_learning_rate=5e-5),
}


def measure(options: Options, seed: int, settings: ToyRun) -> dict[str, Any]:
    """Histograms of the weights divided by c; under gp, which has no c, by their largest value at the end."""
    bound = options.get("clip_value")

    def look(trainer: Trainer) -> dict[str, Any]:
        weights = torch.cat([p.detach().flatten() for p in trainer.critic.parameters()])
        share = weight_saturation(trainer.critic, bound or float(weights.abs().max()))
        return {"weights": weights, "share_at_bound": share}

    seen = watch(settings.trainer(load_data("swissroll"), seed, **options), look)
    weights = seen.pop("weights")
    scale = bound or float(weights[-1].abs().max())
    edges = torch.linspace(-REACH, REACH, BINS + 1)
    return {
        **seen,
        "scale": scale,
        "density": torch.stack([torch.histogram(w / scale, edges, density=True).hist for w in weights]),
        "share_in_outer_tenth": [float((w.abs() > 0.9 * scale).float().mean()) for w in weights],
        "standard_deviation": [float(w.std()) for w in weights],
    }


def draw(results: Results) -> Any:
    canvas, grid = panels(11, 6.4, 2, len(CASES), lines=False)
    centres = np.linspace(-REACH, REACH, 2 * BINS + 1)[1::2]
    for (over_training, ends), case in zip(grid.T, CASES, strict=True):
        unit, title = "weight / c", case.replace("clip", "weight clipping, c =")
        if case == "gp":
            unit, title = "weight / largest weight", "gradient penalty"
        iteration = results.values(case, "iteration")[0]
        density = results.values(case, "density")
        logarithm = np.log10(density.mean(0) + 1e-3)
        image = over_training.pcolormesh(
            centres, iteration, logarithm, cmap="magma", shading="nearest", vmin=-2, vmax=1.3
        )
        over_training.set(title=title, xlabel=unit, ylabel="generator iteration")
        for place in (0, -1):
            draw_band(ends, centres, density[:, place] + 1e-3, label=f"iteration {iteration[place]:.0f}")
        ends.set(yscale="log", ylim=(1e-2, 60), xlabel=unit, ylabel="density")
        ends.grid(alpha=0.3)
        share = spread(100 * results.ends("share_at_bound")[case])
        ends.set_title(f"{share} % of the weights at the bound", fontsize=10)
        ends.legend(fontsize=8, loc="upper center", ncols=2)
    canvas.colorbar(image, ax=grid[0].tolist(), label="log₁₀ density")
    return canvas


def conclude(results: Results) -> str:
    shares = results.ends("share_at_bound")
    piled = all(shares[case].min() > 10 * max(shares["gp"].max(), 1e-3) for case in CLIPPED)
    listed = " and ".join(f"{spread(100 * shares[case])} % at {case.replace('clip', 'c =')}" for case in CLIPPED)
    outer = {case: spread(100 * share) for case, share in results.ends("share_in_outer_tenth").items()}
    return (
        f"After {results.settings.iterations} iterations {listed} of the critic's weights lie at the bound, "
        f"against {spread(100 * shares['gp'])} % at the largest weight under the gradient penalty: the claim "
        f"{'holds' if piled else 'does not hold'} here. "
        f"The outer tenth of the range, where a uniform distribution would have 10 %, holds "
        f"{' and '.join(outer[case] for case in CLIPPED)} % of the clipped weights and {outer['gp']} % of the others."
    )
