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
from wgan_fast.studies.study import Results, by_mean, draw_band, draw_points, panels, spread
from wgan_fast.studies.toy_runs import Options, ToyRun, constrained, diverges, estimate_beside_w1
from wgan_fast.training.data.sets import load_data

CLIP_VALUES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
CLIPPED: dict[str, Options] = {f"clip {c:g}": {"constraint": "clip", "clip_value": c} for c in CLIP_VALUES}
CASES = CLIPPED | constrained("gp")
DEEP_LAYERS = 12
COLORS = (*(f"C{place}" for place in range(len(CLIPPED))), "black")


@dataclass(frozen=True)
class Settings(ToyRun):
    deep_steps: int = 150
    deep_width: int = 64


SIZES = {
    "smoke": Settings(2, width=8, batch=16, samples=30, deep_steps=2, deep_width=8),
    "default": Settings(300, lambda_gp=1.0),
    "full": Settings(
        10_000,
        width=256,
        batch=256,
        learning_rate=2e-4,
        clip_learning_rate=2e-4,
        lambda_gp=1.0,
        deep_steps=5000,
    ),
}


def measure(options: Options, seed: int, settings: Settings) -> dict[str, Any]:
    norms = deep_gradient_norms(options, seed, settings)
    trainer = settings.trainer(load_data("8gaussians"), seed, **options)
    return {
        "layer_gradient_norms": norms,
        "diverged": diverges(trainer),
        **estimate_beside_w1(trainer, settings.samples, seed),
    }


def deep_gradient_norms(options: Options, seed: int, settings: Settings) -> list[float]:
    """Norm of the gradient of E[D(fake)] - E[D(real)] in the activations of each hidden layer, first to last."""
    width, data = settings.deep_width, load_data("swissroll")
    random = torch.Generator().manual_seed(seed)
    hidden = [nn.Linear(2 if layer == 0 else width, width) for layer in range(DEEP_LAYERS)]
    critic = nn.Sequential(*(module for layer in hidden for module in (layer, nn.ReLU())), nn.Linear(width, 1))

    def samples() -> tuple[Tensor, Tensor]:
        real, fake = (data.batch(settings.batch, random) for _ in range(2))
        return real, fake + torch.randn(fake.shape, generator=random)

    train_against_fixed(critic, settings.config(data.name, seed, **options), samples, settings.deep_steps)
    real, fake = samples()
    activations, x = [], torch.cat([real, fake]).double()
    for module in critic.double():
        x = module(x)
        if isinstance(module, nn.ReLU):
            activations.append(x)
    loss = x[len(real) :].mean() - x[: len(real)].mean()
    return [float(g.norm()) for g in torch.autograd.grad(loss, activations)]


def draw(results: Results) -> Any:
    canvas, (layers, scale, quality) = panels(12, 4.4, 1, 3)
    depth = np.arange(1, DEEP_LAYERS + 1)
    for case, color in zip(CASES, COLORS, strict=True):
        norms = results.values(case, "layer_gradient_norms").clip(1e-40)
        draw_band(layers, depth, norms, color=color, label=case.replace("clip", "c ="), marker="o", markersize=3)
    layers.set(yscale="log", xlabel=f"hidden layer of {DEEP_LAYERS}", ylabel="‖∂ loss / ∂ activations‖")
    layers.set_title("gradient through a deep critic")
    layers.legend(fontsize=7, ncols=2, loc="lower right")

    def draw_over_c(axes: Any, name: str, color: str, label: str, label_of_gp: str | None = None) -> None:
        size = {case: np.abs(values) for case, values in results.each(name).items()}
        points = np.stack([size[case] for case in CLIPPED], axis=1)
        draw_points(axes, CLIP_VALUES, points, color=color, marker="o", linestyle="solid", label=label)
        axes.axhline(size["gp"].mean(), color=color, linestyle="dashed", linewidth=1, label=label_of_gp)
        axes.set(xscale="log", xlabel="clip value c")
        axes.legend(fontsize=8)

    draw_over_c(scale, "ratio", "C0", "|estimate| / exact W1")
    draw_over_c(scale, "lipschitz_constant", "C1", "measured Lipschitz constant")
    scale.axhline(1, color="black", linewidth=0.8, linestyle="dotted")
    scale.set(yscale="log", title="estimate (dashed: gp)")
    draw_over_c(quality, "w1_exact", "C3", "weight clipping", "gp")
    quality.set(ylabel="exact W1 of samples to data", title="samples (lower: better)")
    quality.set_ylim(0, None)
    return canvas


def conclude(results: Results) -> str:
    smallest, *_, largest = CLIPPED
    c = {case: case.replace("clip", "c =") for case in CLIPPED}
    norms = {case: values.clip(1e-300) for case, values in results.each("layer_gradient_norms").items()}
    # The factor by which the gradient grows from one layer to the one before it.
    growth = {case: (norm[:, 0] / norm[:, -1]) ** (1 / (DEEP_LAYERS - 1)) for case, norm in norms.items()}
    quality = results.each("w1_exact")
    best, *_, worst = by_mean({case: quality[case] for case in CLIPPED})
    ratio = {case: np.abs(values) for case, values in results.each("ratio").items()}
    return (
        f"Through {DEEP_LAYERS} layers the gradient changes per layer by a factor of {spread(growth[smallest])} at "
        f"{c[smallest]}, {spread(growth[largest])} at {c[largest]} and "
        f"{spread(growth['gp'])} under gp, and the estimate goes from {spread(ratio[smallest])} to "
        f"{spread(ratio[largest])} times W1 (gp {spread(ratio['gp'])}). "
        f"Samples are best at {c[best]} (W1 {spread(quality[best])}), worst at {c[worst]} "
        f"({spread(quality[worst])}), and {spread(quality['gp'])} from the data under gp."
    )
