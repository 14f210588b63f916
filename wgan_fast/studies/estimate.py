"""The critic's dual estimate against the exact W1 while a generator trains, for every constraint.

Kantorovich and Rubinstein: E[D(real)] - E[D(fake)] <= L W1 for a critic of Lipschitz constant L, on any two samples,
with equality for the best critic. So the estimate measures the distance only if L is known and the critic is near its
optimum. All variants have the Wasserstein loss here; ``none`` has no constraint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wgan_fast.studies.study import Results, draw_band, figure, legend_below, spread
from wgan_fast.studies.toy_runs import CONSTRAINTS, LEAST_W1, Numbers, ToyRun, estimate_beside_w1, make_trainer, watch
from wgan_fast.training.loop.trainer import Trainer

VARIANTS = ("none", *CONSTRAINTS)


@dataclass(frozen=True)
class Settings:
    run: ToyRun
    samples: int = 500


SIZES = {
    "smoke": Settings(ToyRun(2, looks=1, width=8, batch=16), samples=30),
    "default": Settings(ToyRun(250, looks=12, learning_rate=1e-3, lambda_gp=1.0)),
    "full": Settings(ToyRun(10_000, looks=50, width=256, batch=256, learning_rate=2e-4, lambda_gp=1.0), samples=2000),
}


def cases(settings: Settings) -> list[str]:
    return list(VARIANTS)


def measure(case: str, seed: int, settings: Settings) -> dict[str, Any]:
    trainer = make_trainer(settings.run.config(case, "8gaussians", seed, loss="wgan"), settings.run.width)

    def look(trainer: Trainer) -> Numbers:
        seen = estimate_beside_w1(trainer, settings.samples, seed)
        bound = seen["lipschitz_constant"] * seen["w1_exact"]
        return {**seen, "share_of_bound": seen["estimate"] / max(bound, LEAST_W1)}

    return watch(trainer, look)


def draw(results: Results) -> Any:
    canvas = figure(12, 6.2)
    panels = canvas.subplots(2, 5, sharex=True, sharey=True).flat
    for axes, case in zip(panels, results.cases(), strict=True):
        iteration = results.values(case, "iteration")[0][1:]
        for name, label, color in (
            ("lipschitz_constant", "measured Lipschitz constant L", "C1"),
            ("ratio", "estimate / W1", "C0"),
            ("share_of_bound", "estimate / (L · W1), at most 1", "C2"),
        ):
            draw_band(axes, iteration, results.values(case, name)[:, 1:].clip(1e-3), color=color, label=label)
        axes.axhline(1, color="black", linewidth=0.8, linestyle="dotted")
        axes.set(title=case, yscale="log", ylim=(1e-2, 1e3))
        axes.grid(alpha=0.3)
        axes.set_xlabel("generator iteration" if case in VARIANTS[5:] else "")
    legend_below(canvas, axes, columns=3)
    return canvas


def conclude(results: Results) -> str:
    ratios, shares, constants, worst = {}, {}, {}, 0.0
    for case in results.cases():
        half = results.values(case, "ratio").shape[1] // 2
        ratios[case] = results.values(case, "ratio")[:, half:].mean(1)
        shares[case] = results.values(case, "share_of_bound")[:, half:].mean(1)
        constants[case] = results.values(case, "lipschitz_constant")[:, -1]
        worst = max(worst, results.values(case, "share_of_bound").max())
    nearest = min(ratios, key=lambda case: abs(ratios[case].mean() - 1))
    tightest = max(shares, key=lambda case: shares[case].mean())
    kept = [case for case in VARIANTS if constants[case].max() <= 1.001]
    bound = "never exceeded" if worst <= 1 + 1e-6 else f"exceeded (by a factor of up to {worst:.3g})"
    return (
        f"Over the second half of training the estimate is {spread(ratios['gp'])} times the exact W1 under gp, "
        f"{spread(ratios['clip'])} times under clip and nearest to it under {nearest} ({spread(ratios[nearest])}); "
        f"at most 1-Lipschitz at the end: {', '.join(kept) or 'none'}. "
        f"The estimate {bound} L · W1 with the measured L, of which {tightest} reaches the largest share, "
        f"{spread(100 * shares[tightest])} % (gp {spread(100 * shares['gp'])} %, clip "
        f"{spread(100 * shares['clip'])} %)."
    )
