"""Every constraint side by side: samples, estimate, Lipschitz constant, and what a critic step costs.

Trained on 8 Gaussians, each with the loss of its paper (r1, r2, dragan and none: the standard GAN's). Costs are of a
critic step on digits with the perceptrons and the batch that `wgan-fast train` has by default: time is the median of
rounds in which all constraints take turns, memory the peak that a step allocates beyond the weights.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wgan_fast.studies.study import Array, Results, by_mean, draw_bars, panels, spread
from wgan_fast.studies.toy_runs import (
    CONSTRAINTS,
    Options,
    ToyRun,
    constrained,
    digits_trainer,
    diverges,
    estimate_beside_w1,
    modes_reached,
    wide_modes,
)
from wgan_fast.training.step.feedforward import written_out
from wgan_fast.training.step.steps import critic_step

VARIANTS = constrained("none", *CONSTRAINTS)
COST = "cost of a critic step"
CASES: dict[str, Options | None] = {**VARIANTS, COST: None}
LOGIT_LOSSES = ("none", "r1", "r2", "dragan")


@dataclass(frozen=True)
class Settings(ToyRun):
    mode_samples: int = 5000
    digits_width: int = 384
    rounds: int = 25


SIZES = {
    "smoke": Settings(2, width=8, batch=16, samples=30, mode_samples=50, digits_width=16, rounds=2),
    "default": Settings(400, lambda_gp=1.0),
    "full": Settings(20_000, width=256, batch=256, learning_rate=2e-4, lambda_gp=1.0, samples=2000, rounds=200),
}


def measure(options: Options | None, seed: int, settings: Settings) -> dict[str, Any]:
    return costs(seed, settings) if options is None else trained(options, seed, settings)


def trained(options: Options, seed: int, settings: Settings) -> dict[str, Any]:
    trainer = settings.trainer(wide_modes("8gaussians"), seed, **options)
    diverged = diverges(trainer)
    trainer.critic.eval()
    reached = modes_reached(trainer, settings.mode_samples, seed)
    return {
        "diverged": diverged,
        "loss": trainer.config.loss,
        "modes": reached["covered"],
        "high_quality": reached["high_quality"],
        **estimate_beside_w1(trainer, settings.samples, seed),
    }


def costs(seed: int, settings: Settings) -> dict[str, Any]:
    """Milliseconds and mebibytes of a critic step, in the order of ``VARIANTS``."""
    steps = [digits_step(options, seed, settings) for options in VARIANTS.values()]
    for step in steps:
        step()
    times = [[milliseconds(step) for step in steps] for _ in range(settings.rounds)]
    return {
        "variant": list(VARIANTS),
        "milliseconds": np.median(times, axis=0).tolist(),
        "mebibytes": [peak_bytes(step) / 2**20 for step in steps],
    }


def milliseconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def digits_step(options: Options, seed: int, settings: Settings) -> Callable[[], object]:
    """A critic step without making its batch; it leaves no gradients behind."""
    trainer = digits_trainer(settings.digits_width, seed, loss="wgan", **options)
    config = trainer.config
    real = trainer.data.batch(config.batch_size, torch.Generator().manual_seed(seed))
    latent = torch.randn(config.batch_size, config.latent_dim)
    optimizer, layers = trainer.critic_optimizer, written_out(trainer.critic, trainer.constraint)

    def step() -> None:
        critic_step(trainer.critic, trainer.generator, optimizer, trainer.constraint, real, latent, layers=layers)
        optimizer.zero_grad()

    return step


def peak_bytes(step: Callable[[], object]) -> int:
    """The peak memory that ``step`` allocates beyond what was allocated before, by PyTorch's profiler."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler reports its start and stop on stderr
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    recorded = profiler.profiler.kineto_results
    assert recorded is not None
    changes = sorted((e.start_ns(), e.nbytes()) for e in recorded.events() if e.name() == "[memory]")
    return int(max(np.cumsum([size for _, size in changes])))


PANELS = (
    ("w1_exact", "exact W1 of samples\nto data (lower: better)"),
    ("high_quality", "share of high-quality\nsamples"),
    ("ratio", "estimate / exact W1\n(1: theory)"),
    ("lipschitz_constant", "measured Lipschitz\nconstant"),
    ("milliseconds", "critic step,\nms"),
    ("mebibytes", "memory of a step,\nMiB"),
)


def column(results: Results, name: str) -> dict[str, Array]:
    """The values of all seeds by constraint; no ratio for scores that are logits."""
    values = results.each(name)
    if COST in values:
        return dict(zip(VARIANTS, values[COST].T, strict=True))
    if name == "ratio":
        values |= {variant: np.full_like(values[variant], np.nan) for variant in LOGIT_LOSSES}
    return values


def draw(results: Results) -> Any:
    canvas, grid = panels(13, 4.8, 1, len(PANELS), sharey=True)
    for axes, (name, title) in zip(grid, PANELS, strict=True):
        values = column(results, name)
        draw_bars(axes, values, ["C1" if variant in LOGIT_LOSSES else "C0" for variant in VARIANTS])
        for place, variant in enumerate(VARIANTS):
            if not np.isfinite(values[variant]).all():
                axes.text(0.02, place, "logits", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        if name in ("ratio", "lipschitz_constant"):
            axes.set_xscale("log")
            axes.axvline(1, color="black", linestyle="dotted", linewidth=1)
        axes.set_title(title, fontsize=10)
    canvas.supxlabel(
        "dots: single seeds; blue: Wasserstein loss, orange: the standard GAN's loss, as in the constraint's paper",
        fontsize=9,
    )
    return canvas


def conclude(results: Results) -> str:
    w1, ratio, lipschitz, time_of = (
        column(results, name) for name in ("w1_exact", "ratio", "lipschitz_constant", "milliseconds")
    )
    best = by_mean(w1)[0]
    estimating = [variant for variant in VARIANTS if variant not in LOGIT_LOSSES]
    nearest = min(estimating, key=lambda variant: abs(np.log(np.abs(ratio[variant].mean()))))
    kept = [variant for variant in VARIANTS if lipschitz[variant].max() <= 1.001]
    cost = {variant: time_of[variant] / time_of["none"] for variant in VARIANTS}
    dearest = by_mean(cost)[-1]
    return (
        f"The samples of {best} are nearest to the data (W1 {spread(w1[best])}; gp {spread(w1['gp'])}, clip "
        f"{spread(w1['clip'])}, no constraint {spread(w1['none'])}), the estimate of {nearest} is nearest to W1 "
        f"({spread(ratio[nearest])} times), and no Lipschitz constant above 1.001 was found for "
        f"{', '.join(kept) or 'none of them'}. "
        f"A critic step takes {spread(cost['gp'])} times as long with gp as without a constraint, with clip "
        f"{spread(cost['clip'])}, spectral {spread(cost['spectral'])}, orthogonal {spread(cost['orthogonal'])}, and "
        f"the most expensive is {dearest} with {spread(cost[dearest])}."
    )
