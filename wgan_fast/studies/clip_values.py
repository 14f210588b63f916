"""The clip value c from 1e-3 to 1: gradients that vanish or explode, a useless estimate, bad samples in between.

Layer by layer (Gulrajani et al. 2017, figure 1, left): a critic of twelve hidden layers against noisy data; the norm of
the gradient of its loss with respect to each layer's activations grows or shrinks by a factor per layer that c decides.
In a GAN of the usual depth (three hidden layers): the estimate against the exact W1, the measured Lipschitz constant,
and the exact W1 of the samples. The gradient penalty is compared in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wgan_fast.studies.probes import train_against_fixed
from wgan_fast.studies.study import Results, draw_band, draw_points, figure, spread
from wgan_fast.studies.toy_runs import ToyRun, diverges, estimate_beside_w1, make_trainer
from wgan_fast.training.data.sets import load_data

DEEP_LAYERS = 12


@dataclass(frozen=True)
class Settings:
    run: ToyRun
    deep_steps: int
    deep_width: int = 64
    samples: int = 1000
    clip_values: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


SIZES = {
    "smoke": Settings(ToyRun(2, width=8, batch=16), 2, deep_width=8, samples=30, clip_values=(1e-2, 1.0)),
    "default": Settings(ToyRun(300, lambda_gp=1.0), 150),
    "full": Settings(
        ToyRun(10_000, width=256, batch=256, learning_rate=2e-4, clip_learning_rate=2e-4, lambda_gp=1.0), 5000
    ),
}


def cases(settings: Settings) -> list[str]:
    return [*(f"clip {c:g}" for c in settings.clip_values), "gp"]


def measure(case: str, seed: int, settings: Settings) -> dict[str, Any]:
    norms = deep_gradient_norms(case, seed, settings)
    trainer = make_trainer(settings.run.config(case, "8gaussians", seed), settings.run.width)
    diverged = diverges(trainer)
    quality = estimate_beside_w1(trainer, settings.samples, seed)
    return {"layer_gradient_norms": norms, "diverged": diverged, **quality}


def deep_gradient_norms(case: str, seed: int, settings: Settings) -> list[float]:
    """Norm of the gradient of E[D(fake)] - E[D(real)] in the activations of each hidden layer, first to last."""
    width, data = settings.deep_width, load_data("swissroll")
    random = torch.Generator().manual_seed(seed)
    hidden = [nn.Linear(2 if layer == 0 else width, width) for layer in range(DEEP_LAYERS)]
    critic = nn.Sequential(*(module for layer in hidden for module in (layer, nn.ReLU())), nn.Linear(width, 1))

    def samples() -> tuple[Tensor, Tensor]:
        real, fake = (data.batch(settings.run.batch, random) for _ in range(2))
        return real, fake + torch.randn(fake.shape, generator=random)

    train_against_fixed(critic, settings.run.config(case, data.name, seed), samples, settings.deep_steps)
    real, fake = samples()
    activations, x = [], torch.cat([real, fake]).double()
    for module in critic.double():
        x = module(x)
        if isinstance(module, nn.ReLU):
            activations.append(x)
    loss = x[len(real) :].mean() - x[: len(real)].mean()
    return [float(g.norm()) for g in torch.autograd.grad(loss, activations)]


def draw(results: Results) -> Any:
    canvas = figure(12, 4.4)
    layers, scale, quality = canvas.subplots(1, 3)
    clipped = [case for case in results.cases() if case != "gp"]
    values = [float(case.split()[1]) for case in clipped]
    colors = [f"C{place}" for place in range(len(clipped))]
    depth = np.arange(1, DEEP_LAYERS + 1)
    for case, color in zip([*clipped, "gp"], [*colors, "black"], strict=True):
        norms = results.values(case, "layer_gradient_norms").clip(1e-40)
        draw_band(layers, depth, norms, color=color, label=case.replace("clip", "c ="), marker="o", markersize=3)
    layers.set(yscale="log", xlabel=f"hidden layer of {DEEP_LAYERS}", ylabel="‖∂ loss / ∂ activations‖")
    layers.set_title("gradient through a deep critic")
    layers.legend(fontsize=7, ncols=2, loc="lower right")
    for name, label, color in (
        ("ratio", "|estimate| / exact W1", "C0"),
        ("lipschitz_constant", "measured Lipschitz constant", "C1"),
    ):
        points = np.stack([np.abs(results.values(case, name)) for case in clipped], axis=1)
        draw_points(scale, values, points, color=color, marker="o", linestyle="solid", label=label)
        scale.axhline(np.abs(results.values("gp", name)).mean(), color=color, linestyle="dashed", linewidth=1)
    scale.axhline(1, color="black", linewidth=0.8, linestyle="dotted")
    scale.set(xscale="log", yscale="log", xlabel="clip value c", title="estimate (dashed: gp)")
    scale.legend(fontsize=8)
    points = np.stack([results.values(case, "w1_exact") for case in clipped], axis=1)
    draw_points(quality, values, points, color="C3", marker="o", linestyle="solid", label="weight clipping")
    quality.axhline(results.values("gp", "w1_exact").mean(), color="C3", linestyle="dashed", linewidth=1, label="gp")
    quality.set(
        xscale="log", xlabel="clip value c", ylabel="exact W1 of samples to data", title="samples (lower: better)"
    )
    quality.set_ylim(0, None)
    quality.legend(fontsize=8)
    for axes in (layers, scale, quality):
        axes.grid(alpha=0.3)
    return canvas


def conclude(results: Results) -> str:
    def per_layer(case: str) -> Any:
        """The factor by which the gradient grows from one layer to the one before it."""
        norms = results.values(case, "layer_gradient_norms").clip(1e-300)
        return (norms[:, 0] / norms[:, -1]) ** (1 / (DEEP_LAYERS - 1))

    clipped = [case for case in results.cases() if case != "gp"]
    smallest, largest = clipped[0], clipped[-1]
    quality = {case: results.values(case, "w1_exact") for case in results.cases()}
    best = min(clipped, key=lambda case: np.nan_to_num(quality[case].mean(), nan=np.inf))
    ratio = {case: np.abs(results.values(case, "ratio")) for case in results.cases()}
    worst = max(clipped, key=lambda case: np.nan_to_num(quality[case].mean(), nan=np.inf))
    return (
        f"Through {DEEP_LAYERS} layers the gradient changes per layer by a factor of {spread(per_layer(smallest))} at "
        f"c = {smallest.split()[1]}, {spread(per_layer(largest))} at c = {largest.split()[1]} and "
        f"{spread(per_layer('gp'))} under gp, and the estimate goes from {spread(ratio[smallest])} to "
        f"{spread(ratio[largest])} times W1 (gp {spread(ratio['gp'])}). "
        f"Samples are best at c = {best.split()[1]} (W1 {spread(quality[best])}), worst at c = {worst.split()[1]} "
        f"({spread(quality[worst])}), and {spread(quality['gp'])} from the data under gp."
    )
