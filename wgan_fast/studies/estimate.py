"""The critic's dual estimate against the exact W1 while a generator trains, for every constraint.

Kantorovich and Rubinstein: E[D(real)] - E[D(fake)] <= L W1 for a critic of Lipschitz constant L, on any two samples,
with equality for the best critic. So the estimate measures the distance only if L is known and the critic is near its
optimum. All variants have the Wasserstein loss here; ``none`` has no constraint.
"""

from __future__ import annotations

from typing import Any

from wgan_fast.studies.study import Array, Results, draw_band, legend_below, panels, spread
from wgan_fast.studies.toy_runs import CONSTRAINTS, Options, ToyRun, constrained, estimate_beside_w1, watch
from wgan_fast.training.data.sets import load_data

CASES = constrained("none", *CONSTRAINTS)
SIZES = {
    "smoke": ToyRun(2, looks=1, width=8, batch=16, samples=30),
    "default": ToyRun(250, looks=12, learning_rate=1e-3, lambda_gp=1.0, samples=500),
    "full": ToyRun(10_000, looks=50, width=256, batch=256, learning_rate=2e-4, lambda_gp=1.0, samples=2000),
}


def measure(options: Options, seed: int, settings: ToyRun) -> dict[str, Any]:
    trainer = settings.trainer(load_data("8gaussians"), seed, loss="wgan", **options)
    return watch(trainer, lambda trainer: estimate_beside_w1(trainer, settings.samples, seed))


def draw(results: Results) -> Any:
    canvas, grid = panels(12, 6.2, 2, 5, sharex=True, sharey=True)
    for axes, case in zip(grid.flat, CASES, strict=True):
        iteration = results.values(case, "iteration")[0][1:]
        for name, label, color in (
            ("lipschitz_constant", "measured Lipschitz constant L", "C1"),
            ("ratio", "estimate / W1", "C0"),
            ("share_of_bound", "estimate / (L · W1), at most 1", "C2"),
        ):
            draw_band(axes, iteration, results.values(case, name)[:, 1:].clip(1e-3), color=color, label=label)
        axes.axhline(1, color="black", linewidth=0.8, linestyle="dotted")
        axes.set(title=case, yscale="log", ylim=(1e-2, 1e3))
    for axes in grid[1]:
        axes.set_xlabel("generator iteration")
    legend_below(canvas, grid[0, 0], columns=3)
    return canvas


def conclude(results: Results) -> str:
    def over_second_half(name: str) -> dict[str, Array]:
        return {case: values[:, values.shape[1] // 2 :].mean(1) for case, values in results.each(name).items()}

    ratios, shares = over_second_half("ratio"), over_second_half("share_of_bound")
    nearest = min(ratios, key=lambda case: abs(ratios[case].mean() - 1))
    tightest = max(shares, key=lambda case: shares[case].mean())
    kept = [case for case, values in results.ends("lipschitz_constant").items() if values.max() <= 1.001]
    worst = max(0.0, *(values.max() for values in results.each("share_of_bound").values()))
    bound = "never exceeded" if worst <= 1 + 1e-6 else f"exceeded (by a factor of up to {worst:.3g})"
    return (
        f"Over the second half of training the estimate is {spread(ratios['gp'])} times the exact W1 under gp, "
        f"{spread(ratios['clip'])} times under clip and nearest to it under {nearest} ({spread(ratios[nearest])}); "
        f"at most 1-Lipschitz at the end: {', '.join(kept) or 'none'}. "
        f"The estimate {bound} L · W1 with the measured L, of which {tightest} reaches the largest share, "
        f"{spread(100 * shares[tightest])} % (gp {spread(100 * shares['gp'])} %, clip "
        f"{spread(100 * shares['clip'])} %)."
    )
