"""A relativistic loss with R1 and R2, against WGAN-GP and the standard GAN with R1: modes, distances, time, divergence.

The claim (Huang et al. 2024, R3GAN): a relativistic loss covers all modes, R1 alone lets it diverge (figure 1, on
StackedMNIST: gradients at generated samples explode), and R1 with R2 keeps it stable. On 25 Gaussians, with exact W1,
and on digits, with the Fréchet distance. Each takes the critic steps per iteration of its paper: five for WGAN-GP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from wgan_fast.penalties import r2_penalty
from wgan_fast.studies.study import Results, draw_band, draw_bars, panels, spread
from wgan_fast.studies.toy_runs import Options, ToyRun, digits_trainer, modes_reached, watch, wide_modes
from wgan_fast.training.data.sets import TensorData
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.report.features import feature_network
from wgan_fast.training.report.metrics import frechet_distance, sliced_wasserstein, wasserstein_1

VARIANTS: dict[str, Options] = {
    "relativistic, R1 and R2": {"loss": "relativistic", "constraint": "r1r2", "n_critic": 1},
    "relativistic, R1": {"loss": "relativistic", "constraint": "r1", "n_critic": 1},
    "GAN, R1": {"loss": "gan", "constraint": "r1", "n_critic": 1},
    "WGAN-GP": {"loss": "wgan", "constraint": "gp", "n_critic": 5},
}
MODES = 25
MODE_SAMPLES = 2500
# The quality on each data set: name of the number, axis label.
QUALITY = {"25gaussians": ("w1", "exact W1 to held-out points"), "digits": ("frechet_distance", "Fréchet distance")}
CASES = {f"{variant} / {data}": (data, options) for data in QUALITY for variant, options in VARIANTS.items()}


@dataclass(frozen=True)
class Settings(ToyRun):
    gamma: float = 0.1
    digits_gamma: float = 1.0
    digits_width: int = 128


SIZES = {
    "smoke": Settings(2, looks=1, width=8, batch=16, samples=30, digits_width=8),
    "default": Settings(400, looks=8, learning_rate=1e-3),
    "full": Settings(20_000, looks=40, width=256, batch=256, learning_rate=2e-4, samples=2000),
}


def measure(case: tuple[str, Options], seed: int, settings: Settings) -> dict[str, Any]:
    name, options = case
    if name == "digits":
        schedule = {"iterations": settings.iterations, "log_every": settings.log_every}
        trainer = digits_trainer(settings.digits_width, seed, gamma=settings.digits_gamma, **schedule, **options)
    else:
        trainer = settings.trainer(wide_modes(name), seed, gamma=settings.gamma, **options)
    data = trainer.data
    real = data.held_out(settings.samples, torch.Generator().manual_seed(seed))
    network = feature_network(data) if isinstance(data, TensorData) else None

    def look(trainer: Trainer) -> dict[str, float]:
        fake = trainer.sample(len(real), seed=seed)
        with torch.no_grad():
            slope = {"fake_gradient_norm": float(r2_penalty(trainer.critic, fake[:256]).sqrt())}
        if network is None:
            return {**slope, **modes_reached(trainer, MODE_SAMPLES, seed), "w1": wasserstein_1(fake, real)}
        distance = sliced_wasserstein(fake, real, projections=128)
        return {**slope, "frechet_distance": frechet_distance(network, fake, real), "sliced_wasserstein": distance}

    return watch(trainer, look)


def draw(results: Results) -> Any:
    canvas, grid = panels(12, 7, 2, 3)
    colors = [f"C{place}" for place in range(len(VARIANTS))]
    for (quality, slope, seconds), (data, (number, label)) in zip(grid, QUALITY.items(), strict=True):
        here = results.ending(f" / {data}")
        for variant, color in zip(VARIANTS, colors, strict=True):
            iterations = here.values(variant, "iteration")[0]
            draw_band(quality, iterations, here.values(variant, number), color=color, label=variant)
            draw_band(slope, iterations, here.values(variant, "fake_gradient_norm"), color=color)
        draw_bars(seconds, here.each("seconds"), colors)
        quality.set(title=data, xlabel="generator iteration", ylabel=label)
        slope.set(title="gradient at generated samples", xlabel="generator iteration", yscale="log")
        seconds.set(title="seconds of training")
    grid[0][0].legend(fontsize=8)
    return canvas


def conclude(results: Results) -> str:
    baseline, without, *_ = VARIANTS
    points, digits = (results.ending(f" / {data}") for data in QUALITY)
    covered, w1, slope = (points.ends(number) for number in ("covered", "w1", "fake_gradient_norm"))
    frechet = digits.ends("frechet_distance")
    figures = "; ".join(
        f"{variant} {spread(covered[variant])} of {MODES} modes, W1 {spread(w1[variant])}, "
        f"Fréchet {spread(frechet[variant])}"
        for variant in VARIANTS
    )
    diverged = {
        variant: int(sum(here.values(variant, "diverged").sum() for here in (points, digits))) for variant in VARIANTS
    }
    return (
        f"After {results.settings.iterations} iterations: {figures}. "
        f"Runs that diverged: {diverged[without]} with R1 alone, {diverged[baseline]} with R1 and R2, and "
        f"the steepest gradient at generated points was {slope[without].max():.3g} without R2 and "
        f"{slope[baseline].max():.3g} with it."
    )
