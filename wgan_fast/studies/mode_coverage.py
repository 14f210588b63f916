"""Modes covered and the share of high-quality samples over training: the standard GAN and every constraint.

The claim: Wasserstein GANs drop fewer modes than the standard GAN, whose generator collapses onto some of them.
Each constraint has the loss of its paper: r1, r2 and dragan the standard GAN's, the others Wasserstein's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wgan_fast.studies.study import Results, draw_bar, figure, spread
from wgan_fast.studies.toy_runs import CONSTRAINTS, Numbers, ToyRun, make_trainer, watch, wide_modes
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.report.metrics import mode_coverage

VARIANTS = ("gan", "gan-minimax", *CONSTRAINTS)
TOTALS = {"25gaussians": 25, "8gaussians": 8}
TITLES = {"25gaussians": "25 Gaussians on a grid", "8gaussians": "8 Gaussians on a ring"}


@dataclass(frozen=True)
class Settings:
    run: ToyRun
    samples: int = 2500


SIZES = {
    "smoke": Settings(ToyRun(2, looks=1, width=8, batch=16), samples=100),
    "default": Settings(ToyRun(300)),
    "full": Settings(ToyRun(20_000, looks=40, width=256, batch=256, learning_rate=2e-4), samples=10_000),
}


def cases(settings: Settings) -> list[str]:
    return [f"{variant} {data}" for data in TOTALS for variant in VARIANTS]


def measure(case: str, seed: int, settings: Settings) -> dict[str, Any]:
    variant, name = case.split()
    data = wide_modes(name)
    trainer = make_trainer(settings.run.config(variant, name, seed), settings.run.width, data)

    def look(trainer: Trainer) -> Numbers:
        assert data.modes is not None
        coverage = mode_coverage(trainer.sample(settings.samples, seed=seed), data.modes)
        return {"covered": coverage.covered, "high_quality": coverage.high_quality}

    return watch(trainer, look)


def draw(results: Results) -> Any:
    canvas = figure(11, 8)
    grid = canvas.subplots(2, 3, width_ratios=(2, 1, 1))
    colors = {variant: f"C{place}" for place, variant in enumerate(VARIANTS[:10])} | {VARIANTS[-1]: "black"}
    for (curves, modes, quality), name in zip(grid, TOTALS, strict=True):
        total = TOTALS[name]
        for variant in VARIANTS:
            case = f"{variant} {name}"
            style = {"color": colors[variant], "linestyle": "dashed" if variant.startswith("gan") else "solid"}
            curves.plot(results.values(case, "iteration")[0], results.values(case, "covered").mean(0), **style)
        curves.set(title=TITLES[name], xlabel="generator iteration", ylabel=f"modes covered, of {total}")
        curves.set_ylim(0, total * 1.02)
        curves.grid(alpha=0.3)
        for axes, number, label in ((modes, "covered", "modes covered"), (quality, "high_quality", "high quality")):
            for place, variant in enumerate(VARIANTS):
                last = results.values(f"{variant} {name}", number)[:, -1]
                draw_bar(axes, place, last, colors[variant])
            axes.set(title=f"{label}, at the end", yticks=range(len(VARIANTS)), xlim=(0, total if axes is modes else 1))
            axes.invert_yaxis()
            axes.grid(axis="x", alpha=0.3)
        modes.set_yticklabels(VARIANTS)
        quality.set_yticklabels([])
    canvas.supxlabel("dots: single seeds; colours of the curves as in the bars; dashed: the standard GAN", fontsize=9)
    return canvas


def conclude(results: Results) -> str:
    sentences = []
    for name, total in TOTALS.items():
        covered = {variant: results.values(f"{variant} {name}", "covered")[:, -1] for variant in VARIANTS}
        standard = max(covered["gan"].max(), covered["gan-minimax"].max())
        better = [variant for variant in CONSTRAINTS if covered[variant].min() > standard]
        named = ", ".join(f"{variant} {spread(covered[variant])}" for variant in ("gan", "gan-minimax", "gp", "clip"))
        best = max(CONSTRAINTS, key=lambda variant: covered[variant].mean())
        sentences.append(
            f"Of {total} modes were covered after {results.settings.run.iterations} iterations: {named}, most among "
            f"the constraints by {best} {spread(covered[best])}; with every seed more than by either standard GAN: "
            f"{', '.join(better) or 'none'}."
        )
    return " ".join(sentences)
