"""Modes covered and the share of high-quality samples over training: the standard GAN and every constraint.

The claim: Wasserstein GANs drop fewer modes than the standard GAN, whose generator collapses onto some of them.
Each constraint has the loss of its paper: r1, r2 and dragan the standard GAN's, the others Wasserstein's.
"""

from __future__ import annotations

from typing import Any

from wgan_fast.studies.study import Results, draw_bars, panels, spread
from wgan_fast.studies.toy_runs import (
    CONSTRAINTS,
    STANDARD_GAN,
    Options,
    ToyRun,
    constrained,
    modes_reached,
    watch,
    wide_modes,
)

VARIANTS = STANDARD_GAN | constrained(*CONSTRAINTS)
COLORS = (*(f"C{place}" for place in range(10)), "black")
TOTALS = {"25gaussians": 25, "8gaussians": 8}
TITLES = {"25gaussians": "25 Gaussians on a grid", "8gaussians": "8 Gaussians on a ring"}
CASES = {f"{variant} {data}": (data, options) for data in TOTALS for variant, options in VARIANTS.items()}
SIZES = {
    "smoke": ToyRun(2, looks=1, width=8, batch=16, samples=100),
    "default": ToyRun(300, samples=2500),
    "full": ToyRun(20_000, looks=40, width=256, batch=256, learning_rate=2e-4, samples=10_000),
}


def measure(case: tuple[str, Options], seed: int, settings: ToyRun) -> dict[str, Any]:
    data, options = case
    trainer = settings.trainer(wide_modes(data), seed, **options)
    return watch(trainer, lambda trainer: modes_reached(trainer, settings.samples, seed))


def draw(results: Results) -> Any:
    canvas, grid = panels(11, 8, 2, 3, width_ratios=(2, 1, 1))
    for (curves, modes, quality), (data, total) in zip(grid, TOTALS.items(), strict=True):
        here = results.ending(f" {data}")
        for variant, color in zip(VARIANTS, COLORS, strict=True):
            iterations, covered = (here.values(variant, name) for name in ("iteration", "covered"))
            style = "dashed" if variant in STANDARD_GAN else "solid"
            curves.plot(iterations[0], covered.mean(0), color=color, linestyle=style)
        curves.set(title=TITLES[data], xlabel="generator iteration", ylabel=f"modes covered, of {total}")
        curves.set_ylim(0, total * 1.02)
        draw_bars(modes, here.ends("covered"), COLORS)
        modes.set(title="modes covered, at the end", xlim=(0, total))
        draw_bars(quality, here.ends("high_quality"), COLORS)
        quality.set(title="high quality, at the end", xlim=(0, 1), yticklabels=[])
    canvas.supxlabel("dots: single seeds; colours of the curves as in the bars; dashed: the standard GAN", fontsize=9)
    return canvas


def conclude(results: Results) -> str:
    sentences = []
    for data, total in TOTALS.items():
        covered = results.ending(f" {data}").ends("covered")
        standard = max(covered[variant].max() for variant in STANDARD_GAN)
        better = [variant for variant in CONSTRAINTS if covered[variant].min() > standard]
        named = ", ".join(f"{variant} {spread(covered[variant])}" for variant in (*STANDARD_GAN, "gp", "clip"))
        best = max(CONSTRAINTS, key=lambda variant: covered[variant].mean())
        sentences.append(
            f"Of {total} modes were covered after {results.settings.iterations} iterations: {named}, most among "
            f"the constraints by {best} {spread(covered[best])}; with every seed more than by either standard GAN: "
            f"{', '.join(better) or 'none'}."
        )
    return " ".join(sentences)
