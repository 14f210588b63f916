"""Does the loss follow the quality of the samples? On digits, over training (Arjovsky et al. 2017, figures 3 and 4).

The paper's claim: the Wasserstein estimate falls as samples improve, whereas the standard GAN's Jensen-Shannon estimate
saturates and is uninformative. The standard GAN is here without a constraint, with one critic step per iteration as in
its paper, and with the R1 penalty, without which it may collapse. Quality is the Fréchet distance (in the features
of a small classifier) and the sliced Wasserstein distance to real digits. Successive measurements of a run are
correlated, so the confidence intervals come from a block bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wgan_fast.penalties import first_output
from wgan_fast.studies.study import Array, Results, panels
from wgan_fast.studies.toy_runs import STANDARD_GAN, Options, constrained, digits_trainer, watch
from wgan_fast.training.data.sets import TensorData
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.report.features import feature_network
from wgan_fast.training.report.metrics import frechet_distance, sliced_wasserstein
from wgan_fast.training.step.losses import critic_loss, generator_loss

RESAMPLES = 2000
BLOCK = 4
CASES = constrained("gp", "clip") | {"gan": STANDARD_GAN["gan"] | {"n_critic": 1}} | constrained("r1")
CURVES = (
    ("gp", "wasserstein_estimate", "WGAN-GP: Wasserstein estimate"),
    ("clip", "wasserstein_estimate", "WGAN, clip: Wasserstein estimate"),
    ("gan", "jensen_shannon_estimate", "GAN: Jensen-Shannon estimate"),
    ("gan", "generator_loss", "GAN: generator's loss"),
    ("r1", "jensen_shannon_estimate", "GAN, R1: Jensen-Shannon estimate"),
)
"""The losses that are compared with quality: case, name of the number, and label."""


@dataclass(frozen=True)
class Settings:
    iterations: int
    looks: int = 20
    width: int = 128
    samples: int = 500


SIZES = {
    "smoke": Settings(4, looks=4, width=16, samples=30),
    "default": Settings(500),
    "full": Settings(10_000, looks=100, width=384, samples=1300),
}


def measure(options: Options, seed: int, settings: Settings) -> dict[str, Any]:
    trainer = digits_trainer(
        settings.width,
        seed,
        iterations=settings.iterations,
        critic_burst=False,
        ema_decay=0.0,
        log_every=max(1, settings.iterations // settings.looks),
        **options,
    )
    data = trainer.data
    assert isinstance(data, TensorData)
    network = feature_network(data)
    real = data.training(settings.samples, torch.Generator().manual_seed(seed))

    def look(trainer: Trainer) -> dict[str, float]:
        fake = trainer.sample(settings.samples, seed=seed)
        with torch.no_grad():
            on_real, on_fake = first_output(trainer.critic(real)), first_output(trainer.critic(fake))
        return {
            "wasserstein_estimate": float(on_real.mean() - on_fake.mean()),
            "jensen_shannon_estimate": float(np.log(2) - critic_loss("gan", on_real, on_fake) / 2),
            "generator_loss": float(generator_loss(trainer.config.loss, on_fake)),
            "frechet_distance": frechet_distance(network, fake, real),
            "sliced_wasserstein": sliced_wasserstein(fake, real, projections=128),
        }

    return watch(trainer, look)


def correlation(x: Array, y: Array, *, of_ranks: bool) -> tuple[float, float, float]:
    """Pearson's or Spearman's coefficient over ``(seeds, looks)``, averaged over seeds, and its 95 % interval."""
    if of_ranks:
        x, y = (np.argsort(np.argsort(values, axis=1), axis=1).astype(float) for values in (x, y))
    looks = x.shape[1]
    block = min(BLOCK, looks)
    random = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        chosen = random.integers(len(x), size=len(x))
        starts = random.integers(looks - block + 1, size=(len(x), -(-looks // block)))
        picked = (starts[..., None] + np.arange(block)).reshape(len(x), -1)[:, :looks]
        a, b = (np.take_along_axis(values[chosen], picked, axis=1) for values in (x, y))
        found.append(_mean_correlation(a, b))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return _mean_correlation(x, y), float(low), float(high)


def _mean_correlation(a: Array, b: Array) -> float:
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (a, b))
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(((a * b).sum(axis=1)[scale > 0] / scale[scale > 0]).mean()) if (scale > 0).any() else float("nan")


def _shown(results: Results, case: str, loss: str, quality: str, *, of_ranks: bool, late: bool = False) -> str:
    """The correlation over all looks after the start, or those of the second half of training, and its interval."""
    x, y = (results.values(case, name)[:, 1:] for name in (loss, quality))
    begin = x.shape[1] // 2 if late else 0
    mean, low, high = correlation(x[:, begin:], y[:, begin:], of_ranks=of_ranks)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def draw(results: Results) -> Any:
    canvas, grid = panels(14, 6.4, 2, len(CURVES), lines=False)
    for (top, bottom), (case, loss, label) in zip(grid.T, CURVES, strict=True):
        iteration = results.values(case, "iteration")[0][1:]
        values, quality = results.values(case, loss)[:, 1:], results.values(case, "frechet_distance")[:, 1:]
        other = top.twinx()
        for row, distance in zip(values, quality, strict=True):
            top.plot(iteration, row, color="C0", linewidth=1)
            other.plot(iteration, distance, color="C3", linewidth=1, linestyle="dashed")
        top.set(xlabel="generator iteration", title=label.replace(": ", ":\n"))
        top.tick_params(axis="y", colors="C0")
        other.tick_params(axis="y", colors="C3")
        points = bottom.scatter(values, quality, c=np.tile(iteration, len(values)), cmap="viridis", s=12)
        linear, ranks = (_shown(results, case, loss, "frechet_distance", of_ranks=r) for r in (False, True))
        bottom.set_title(f"correlation {linear}\nof ranks {ranks}", fontsize=10)
        bottom.set(xlabel=loss.replace("_", " "))
        bottom.grid(alpha=0.3)
    grid[0, 0].set_ylabel("loss (solid, left axes)", color="C0")
    other.set_ylabel("Fréchet distance (dashed)", color="C3")
    grid[1, 0].set_ylabel("Fréchet distance")
    canvas.colorbar(points, ax=grid[1].tolist(), label="generator iteration")
    return canvas


def conclude(results: Results) -> str:
    def listed(quality: str, *, of_ranks: bool = False, late: bool = False) -> str:
        return ", ".join(
            f"{label} {_shown(results, case, loss, quality, of_ranks=of_ranks, late=late)}"
            for case, loss, label in CURVES
        )

    return (
        f"Correlation over training [95 % interval] with the Fréchet distance: {listed('frechet_distance')}; "
        f"with the sliced Wasserstein distance: {listed('sliced_wasserstein')}. "
        f"Of ranks, with the Fréchet distance: {listed('frechet_distance', of_ranks=True)}; over the second half of "
        f"training alone: {listed('frechet_distance', of_ranks=True, late=True)}."
    )
