"""The critic's weights over training (Gulrajani et al. 2017, figure 1, right): weight clipping against the penalty.

The paper's claim: clipping pushes the weights towards the two bounds ±c, which the penalty does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wgan_fast.studies.study import Results, draw_band, figure, spread
from wgan_fast.studies.toy_runs import ToyRun, make_trainer
from wgan_fast.training.loop.health import weight_saturation

BINS = 61
REACH = 1.5


@dataclass(frozen=True)
class Settings:
    run: ToyRun
    clip_values: tuple[float, ...] = (0.01, 0.1)


SIZES = {
    "smoke": Settings(ToyRun(4, looks=2, width=8, batch=16, learning_rate=5e-4, clip_learning_rate=5e-4)),
    "default": Settings(ToyRun(500, looks=20, learning_rate=5e-4)),
    "full": Settings(ToyRun(20_000, looks=50, width=512, batch=256, learning_rate=1e-4, clip_learning_rate=5e-5)),
}


def cases(settings: Settings) -> list[str]:
    return [*(f"clip {c:g}" for c in settings.clip_values), "gp"]


def measure(case: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Histograms of the weights divided by c; under gp, which has no c, by their largest value at the end."""
    bound = case.partition(" ")[2]
    trainer = make_trainer(settings.run.config(case, "swissroll", seed), settings.run.width)
    iterations, weights, shares = [], [], []

    def look(record: dict[str, Any]) -> None:
        iterations.append(record["iteration"])
        weights.append(_flat(trainer.critic))
        shares.append(_share_at_bound(trainer.critic, bound))

    look({"iteration": 0})
    trainer.train(look)
    scale = float(bound) if bound else float(weights[-1].abs().max())
    edges = torch.linspace(-REACH, REACH, BINS + 1)
    density = [torch.histogram(w / scale, edges, density=True).hist for w in weights]
    return {
        "iteration": iterations,
        "scale": scale,
        "density": torch.stack(density),
        "share_at_bound": shares,
        "share_in_outer_tenth": [float((w.abs() > 0.9 * scale).float().mean()) for w in weights],
        "standard_deviation": [float(w.std()) for w in weights],
    }


def _flat(critic: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in critic.parameters()])


def _share_at_bound(critic: nn.Module, bound: str) -> float:
    """Under gp, whose weights have no bound, at their own largest value."""
    return weight_saturation(critic, float(bound) if bound else float(_flat(critic).abs().max()))


def draw(results: Results) -> Any:
    canvas = figure(11, 6.4)
    names = results.cases()
    grid = canvas.subplots(2, len(names))
    centres = np.linspace(-REACH, REACH, 2 * BINS + 1)[1::2]
    for column, case in enumerate(names):
        unit = "c" if case != "gp" else "largest weight"
        iteration = results.values(case, "iteration")[0]
        density = results.values(case, "density")
        image = grid[0, column].pcolormesh(
            centres, iteration, np.log10(density.mean(0) + 1e-3), cmap="magma", shading="nearest", vmin=-2, vmax=1.3
        )
        title = f"weight clipping, c = {case.split()[1]}" if case != "gp" else "gradient penalty"
        grid[0, column].set(title=title, xlabel=f"weight / {unit}", ylabel="generator iteration")
        axes = grid[1, column]
        for place in (0, -1):
            draw_band(axes, centres, density[:, place] + 1e-3, label=f"iteration {iteration[place]:.0f}")
        axes.set(yscale="log", ylim=(1e-2, 60), xlabel=f"weight / {unit}", ylabel="density")
        axes.grid(alpha=0.3)
        share = spread(100 * results.values(case, "share_at_bound")[:, -1])
        axes.set_title(f"{share} % of the weights at the bound", fontsize=10)
        axes.legend(fontsize=8, loc="upper center", ncols=2)
    canvas.colorbar(image, ax=grid[0].tolist(), label="log₁₀ density")
    return canvas


def conclude(results: Results) -> str:
    shares = {case: results.values(case, "share_at_bound")[:, -1] for case in results.cases()}
    clipped = [case for case in shares if case != "gp"]
    piled = all(shares[case].min() > 10 * max(shares["gp"].max(), 1e-3) for case in clipped)
    listed = " and ".join(f"{spread(100 * shares[case])} % at c = {case.split()[1]}" for case in clipped)
    outer = {case: spread(100 * results.values(case, "share_in_outer_tenth")[:, -1]) for case in shares}
    return (
        f"After {results.settings.run.iterations} iterations {listed} of the critic's weights lie at the bound, "
        f"against {spread(100 * shares['gp'])} % at the largest weight under the gradient penalty: the claim "
        f"{'holds' if piled else 'does not hold'} here. "
        f"The outer tenth of the range, where a uniform distribution would have 10 %, holds "
        f"{' and '.join(outer[case] for case in clipped)} % of the clipped weights and {outer['gp']} % of the others."
    )
