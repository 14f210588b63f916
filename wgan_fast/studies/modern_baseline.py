"""A relativistic loss with R1 and R2, against WGAN-GP and the standard GAN with R1: modes, distances, time, divergence.

The claim (Huang et al. 2024, R3GAN): a relativistic loss covers all modes, R1 alone lets it diverge (figure 1, on
StackedMNIST: gradients at generated samples explode), and R1 with R2 keeps it stable. On 25 Gaussians, with exact W1,
and on digits, with the Fréchet distance. Each takes the critic steps per iteration of its paper: five for WGAN-GP.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from wgan_fast.penalties import r2_penalty
from wgan_fast.studies.study import Results, draw_band, draw_bar, figure, spread
from wgan_fast.studies.toy_runs import Numbers, ToyRun, make_trainer, watch, wide_modes
from wgan_fast.training.config import Config
from wgan_fast.training.data.sets import TensorData
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.report.features import feature_network
from wgan_fast.training.report.metrics import frechet_distance, mode_coverage, sliced_wasserstein, wasserstein_1

VARIANTS: dict[str, dict[str, Any]] = {
    "relativistic, R1 and R2": {"loss": "relativistic", "constraint": "r1r2", "n_critic": 1},
    "relativistic, R1": {"loss": "relativistic", "constraint": "r1", "n_critic": 1},
    "GAN, R1": {"loss": "gan", "constraint": "r1", "n_critic": 1},
    "WGAN-GP": {"loss": "wgan", "constraint": "gp", "n_critic": 5},
}
MODES = 25
# The quality on each data set: name of the number, axis label.
QUALITY = {"25gaussians": ("w1", "exact W1 to held-out points"), "digits": ("frechet_distance", "Fréchet distance")}


@dataclass(frozen=True)
class Settings:
    run: ToyRun
    samples: int = 1000
    gamma: float = 0.1
    digits_gamma: float = 1.0
    digits_width: int = 128


SIZES = {
    "smoke": Settings(ToyRun(2, looks=1, width=8, batch=16), samples=30, digits_width=8),
    "default": Settings(ToyRun(400, looks=8, learning_rate=1e-3)),
    "full": Settings(ToyRun(20_000, looks=40, width=256, batch=256, learning_rate=2e-4), samples=2000),
}


def cases(settings: Settings) -> list[str]:
    return [f"{variant} / {data}" for data in QUALITY for variant in VARIANTS]


def measure(case: str, seed: int, settings: Settings) -> dict[str, Any]:
    variant, name = case.split(" / ")
    trainer = _points(variant, seed, settings) if name == "25gaussians" else _digits(variant, seed, settings)
    random = torch.Generator().manual_seed(seed)
    real = trainer.data.held_out(settings.samples, random)
    network = feature_network(trainer.data) if isinstance(trainer.data, TensorData) else None
    spent = [0.0]

    def look(trainer: Trainer) -> Numbers:
        start = time.perf_counter()
        fake = trainer.sample(len(real), seed=seed)
        with torch.no_grad():
            slope = float(r2_penalty(trainer.critic, fake[:256]).sqrt())
        found = {"fake_gradient_norm": slope}
        if network is None:
            coverage = mode_coverage(trainer.sample(2500, seed=seed), trainer.data.modes)  # type: ignore[attr-defined]
            found |= {"covered": coverage.covered, "w1": wasserstein_1(fake, real)}
        else:
            distance = sliced_wasserstein(fake, real, projections=128)
            found |= {"frechet_distance": frechet_distance(network, fake, real), "sliced_wasserstein": distance}
        spent[0] += time.perf_counter() - start
        return found

    start = time.perf_counter()
    numbers = watch(trainer, look)
    return {**numbers, "seconds": time.perf_counter() - start - spent[0]}


def _points(variant: str, seed: int, settings: Settings) -> Trainer:
    data = wide_modes("25gaussians")
    options = VARIANTS[variant] | {"gamma": settings.gamma}
    config = settings.run.config(options["constraint"], "25gaussians", seed, **options)
    return make_trainer(config, settings.run.width, data)


def _digits(variant: str, seed: int, settings: Settings) -> Trainer:
    config = Config(
        data="digits",
        **VARIANTS[variant],
        gamma=settings.digits_gamma,
        iterations=settings.run.iterations,
        seed=seed,
        log_every=max(1, settings.run.iterations // settings.run.looks),
    )
    return make_trainer(config, settings.digits_width)


def draw(results: Results) -> Any:
    canvas = figure(12, 7)
    grid = canvas.subplots(2, 3)
    for row, (name, (number, label)) in zip(grid, QUALITY.items(), strict=True):
        for i, variant in enumerate(VARIANTS):
            case = f"{variant} / {name}"
            iterations = results.values(case, "iteration")[0]
            for axes, what in zip(row, (number, "fake_gradient_norm"), strict=False):
                draw_band(axes, iterations, results.values(case, what), color=f"C{i}", label=variant)
            draw_bar(row[2], i, results.values(case, "seconds"), f"C{i}")
        row[0].set(title=name, xlabel="generator iteration", ylabel=label)
        row[1].set(title="gradient at generated samples", xlabel="generator iteration", yscale="log")
        row[2].set(title="seconds of training", yticks=range(len(VARIANTS)), yticklabels=list(VARIANTS))
        row[2].invert_yaxis()
        for axes in row:
            axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    return canvas


def conclude(results: Results) -> str:
    baseline, without, *_ = VARIANTS

    def last(variant: str, data: str, number: str) -> Any:
        return results.values(f"{variant} / {data}", number)[:, -1]

    def diverged(variant: str) -> int:
        return int(sum(results.values(f"{variant} / {data}", "diverged").sum() for data in QUALITY))

    def summary(variant: str) -> str:
        covered, w1 = (spread(last(variant, "25gaussians", number)) for number in ("covered", "w1"))
        frechet = spread(last(variant, "digits", "frechet_distance"))
        return f"{variant} {covered} of {MODES} modes, W1 {w1}, Fréchet {frechet}"

    figures = "; ".join(map(summary, VARIANTS))
    slopes = [last(variant, "25gaussians", "fake_gradient_norm").max() for variant in (without, baseline)]
    return (
        f"After {results.settings.run.iterations} iterations: {figures}. "
        f"Runs that diverged: {diverged(without)} with R1 alone, {diverged(baseline)} with R1 and R2, and "
        f"the steepest gradient at generated points was {slopes[0]:.3g} without R2 and {slopes[1]:.3g} with it."
    )
