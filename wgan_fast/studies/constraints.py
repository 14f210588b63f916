"""Every constraint side by side: samples, estimate, Lipschitz constant, and what a critic step costs.

Trained on 8 Gaussians, each with the loss of its paper (r1, r2, dragan and none: the standard GAN's). Costs are of a
critic step on digits with the perceptrons and the batch that `wgan-fast train` has by default: time is the median of
rounds in which all constraints take turns, memory the peak that a step allocates beyond the weights.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wgan_fast.studies.study import Results, draw_bar, figure, spread
from wgan_fast.studies.toy_runs import CONSTRAINTS, ToyRun, diverges, estimate_beside_w1, make_trainer, wide_modes
from wgan_fast.training.config import Config
from wgan_fast.training.report.metrics import mode_coverage
from wgan_fast.training.step.feedforward import written_out
from wgan_fast.training.step.steps import critic_step

VARIANTS = ("none", *CONSTRAINTS)
COST = "cost of a critic step"
LOGIT_LOSSES = ("none", "r1", "r2", "dragan")


@dataclass(frozen=True)
class Settings:
    run: ToyRun
    rounds: int
    width: int = 384
    samples: int = 1000
    mode_samples: int = 5000


SIZES = {
    "smoke": Settings(ToyRun(2, width=8, batch=16), 2, width=16, samples=30, mode_samples=50),
    "default": Settings(ToyRun(400, lambda_gp=1.0), 25),
    "full": Settings(ToyRun(20_000, width=256, batch=256, learning_rate=2e-4, lambda_gp=1.0), 200, samples=2000),
}


def cases(settings: Settings) -> list[str]:
    return [*VARIANTS, COST]


def measure(case: str, seed: int, settings: Settings) -> dict[str, Any]:
    return costs(seed, settings) if case == COST else trained(case, seed, settings)


def trained(variant: str, seed: int, settings: Settings) -> dict[str, Any]:
    data = wide_modes("8gaussians")
    assert data.modes is not None
    trainer = make_trainer(settings.run.config(variant, data.name, seed), settings.run.width, data)
    diverged = diverges(trainer)
    trainer.critic.eval()
    coverage = mode_coverage(trainer.sample(settings.mode_samples, seed=seed), data.modes)
    return {
        "diverged": diverged,
        "loss": trainer.config.loss,
        "modes": coverage.covered,
        "high_quality": coverage.high_quality,
        **estimate_beside_w1(trainer, settings.samples, seed),
    }


def costs(seed: int, settings: Settings) -> dict[str, Any]:
    """Milliseconds and mebibytes of a critic step, in the order of ``VARIANTS``."""
    steps = [digits_step(variant, seed, settings) for variant in VARIANTS]
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in VARIANTS]
    for _ in range(settings.rounds):
        for step, record in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            record.append(1e3 * (time.perf_counter() - start))
    return {
        "variant": VARIANTS,
        "milliseconds": [statistics.median(record) for record in times],
        "mebibytes": [peak_bytes(step) / 2**20 for step in steps],
    }


def digits_step(variant: str, seed: int, settings: Settings) -> Callable[[], object]:
    """A critic step without making its batch; it leaves no gradients behind."""
    config = Config(data="digits", constraint=variant, loss="wgan", seed=seed)  # type: ignore[arg-type]
    trainer = make_trainer(config, settings.width)
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


def table(results: Results) -> dict[str, dict[str, Any]]:
    """For each constraint and panel the values of all seeds; no ratio for scores that are logits."""
    rows: dict[str, dict[str, Any]] = {}
    for place, variant in enumerate(VARIANTS):
        row = {name: results.values(variant, name) for name, _ in PANELS[:4]}
        row |= {name: results.values(COST, name)[:, place] for name, _ in PANELS[4:]}
        if variant in LOGIT_LOSSES:
            row["ratio"] = np.full_like(row["ratio"], np.nan)
        rows[variant] = row
    return rows


def draw(results: Results) -> Any:
    canvas = figure(13, 4.8)
    rows = table(results)
    for axes, (name, title) in zip(canvas.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
        for place, variant in enumerate(VARIANTS):
            values = rows[variant][name]
            color = "C1" if variant in LOGIT_LOSSES else "C0"
            if np.isfinite(values).all():
                draw_bar(axes, place, values, color)
            else:
                axes.text(0.02, place, "logits", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        if name in ("ratio", "lipschitz_constant"):
            axes.set_xscale("log")
            axes.axvline(1, color="black", linestyle="dotted", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(VARIANTS)), VARIANTS)
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    canvas.supxlabel(
        "dots: single seeds; blue: Wasserstein loss, orange: the standard GAN's loss, as in the constraint's paper",
        fontsize=9,
    )
    return canvas


def conclude(results: Results) -> str:
    rows = table(results)
    best = min(rows, key=lambda variant: np.nan_to_num(rows[variant]["w1_exact"].mean(), nan=np.inf))
    estimating = [variant for variant in VARIANTS if variant not in LOGIT_LOSSES]
    nearest = min(estimating, key=lambda variant: abs(np.log(np.abs(rows[variant]["ratio"].mean()))))
    kept = [variant for variant in VARIANTS if rows[variant]["lipschitz_constant"].max() <= 1.001]
    plain = rows["none"]["milliseconds"]
    cost = {variant: rows[variant]["milliseconds"] / plain for variant in VARIANTS}
    dearest = max(cost, key=lambda variant: cost[variant].mean())
    return (
        f"The samples of {best} are nearest to the data (W1 {spread(rows[best]['w1_exact'])}; gp "
        f"{spread(rows['gp']['w1_exact'])}, clip {spread(rows['clip']['w1_exact'])}, no constraint "
        f"{spread(rows['none']['w1_exact'])}), the estimate of {nearest} is nearest to W1 "
        f"({spread(rows[nearest]['ratio'])} times), and no Lipschitz constant above 1.001 was found for "
        f"{', '.join(kept) or 'none of them'}. "
        f"A critic step takes {spread(cost['gp'])} times as long with gp as without a constraint, with clip "
        f"{spread(cost['clip'])}, spectral {spread(cost['spectral'])}, orthogonal {spread(cost['orthogonal'])}, and "
        f"the most expensive is {dearest} with {spread(cost[dearest])}."
    )
