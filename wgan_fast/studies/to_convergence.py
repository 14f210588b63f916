"""A critic trained to convergence against a fixed generator: the gradient that is left for the generator.

Arjovsky & Bottou 2017, theorem 2.4 and figure 2: as the standard GAN's discriminator approaches its optimum, the
gradient of the generator's loss log(1 - D(G(z))) vanishes, over orders of magnitude; that of -log D(G(z)) does not, but
grows and turns unstable (theorem 2.6). Arjovsky et al. 2017, section 3: a Wasserstein critic can, and should, be
trained to its optimum. The generator has had a short training, on digits, whose samples lie on thin sets in 64
dimensions; the critics start anew.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wgan_fast.studies.probes import train_against_fixed
from wgan_fast.studies.study import Array, Results, by_name, draw_band, legend_below, panels, spread
from wgan_fast.studies.toy_runs import STANDARD_GAN, Options, constrained
from wgan_fast.training.config import Config
from wgan_fast.training.data.sets import load_data
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.models.pairs import Pair, build_models
from wgan_fast.training.step.losses import LossName, generator_loss

LATENT = 32
CASES: dict[str, tuple[Options, tuple[LossName, ...]]] = {
    "gan": (STANDARD_GAN["gan"], ("gan-minimax", "gan")),
    **{case: (options, ("wgan",)) for case, options in constrained("gp", "clip").items()},
}
"""What the critic is trained with, and the losses of the generator whose gradients are read."""


@dataclass(frozen=True)
class Settings:
    steps: int
    generator_iterations: int = 60
    width: int = 128
    batch: int = 64
    read_batch: int = 512
    looks: int = 16
    learning_rate: float = 5e-4
    lambda_gp: float = 10.0
    clip_value: float = 0.05


SIZES = {
    "smoke": Settings(6, generator_iterations=1, width=16, batch=8, read_batch=16, looks=3),
    "default": Settings(1500),
    "full": Settings(20_000, generator_iterations=1000, width=384, looks=40),
}


def measure(case: tuple[Options, tuple[LossName, ...]], seed: int, settings: Settings) -> dict[str, Any]:
    options, losses = case
    data = load_data("digits")

    def pair() -> Pair:
        return build_models("mlp", data.sample_shape, LATENT, settings.width)

    # One network of each pair: the draws of the others are part of what a seed stands for in the published numbers.
    generator, first_critic = pair().generator, pair().critic
    short = Config(
        data="digits", iterations=settings.generator_iterations, seed=seed, batch_size=settings.batch, ema_decay=0.0
    )
    Trainer(generator, first_critic, data, short).train()
    critic, random = pair().critic, torch.Generator().manual_seed(seed)
    config = Config(
        data="digits",
        learning_rate=settings.learning_rate,
        lambda_gp=settings.lambda_gp,
        clip_value=settings.clip_value,
        **options,
    )
    steps = sorted({round(step) for step in np.geomspace(1, settings.steps, settings.looks)})
    seen: list[dict[str, float]] = []

    def samples() -> tuple[Tensor, Tensor]:
        return data.batch(settings.batch, random), torch.randn(settings.batch, LATENT)

    def look(step: int) -> None:
        if step in steps:
            latent = torch.randn(settings.read_batch, LATENT, generator=torch.Generator().manual_seed(seed))
            norms = {
                f"gradient_norm_{loss}": generator_gradient_norm(critic, generator, latent, loss) for loss in losses
            }
            real = data.batch(settings.read_batch, random)
            seen.append({**norms, "separation": _separation(critic, real, generator(latent))})

    train_against_fixed(critic, config, samples, settings.steps, generator=generator, look=look)
    return {"step": steps, **by_name(seen)}


def generator_gradient_norm(critic: nn.Module, generator: nn.Module, latent: Tensor, loss_name: LossName) -> float:
    """Norm of the gradient of the generator's loss in all its weights; in double precision, as it may be tiny."""
    critic, generator = (copy.deepcopy(network).double() for network in (critic, generator))
    loss = generator_loss(loss_name, critic(generator(latent.double())))
    gradients = torch.autograd.grad(loss, list(generator.parameters()))
    return float(torch.cat([g.flatten() for g in gradients]).norm())


def _separation(critic: nn.Module, real: Tensor, fake: Tensor) -> float:
    """The share of pairs of a real and a generated sample ranked correctly by the critic (area under the ROC curve)."""
    with torch.no_grad():
        return float((critic(real)[:, None] > critic(fake)[None]).float().mean())


LABELS = {
    ("gan", "gan-minimax"): "standard GAN, log(1 - D): saturating",
    ("gan", "gan"): "standard GAN, -log D: non-saturating",
    ("gp", "wgan"): "WGAN, gradient penalty",
    ("clip", "wgan"): "WGAN, weight clipping",
}


def draw(results: Results) -> Any:
    canvas, (gradient, ranking) = panels(10, 5, 1, 2)
    for place, ((case, loss), label) in enumerate(LABELS.items()):
        norms = results.values(case, f"gradient_norm_{loss}")
        steps = results.values(case, "step")[0]
        draw_band(gradient, steps, norms, label=label, color=f"C{place}", marker="o", markersize=3)
        if loss != "gan":
            draw_band(ranking, steps, results.values(case, "separation"), color=f"C{place}")
    gradient.set(xscale="log", yscale="log", xlabel="critic steps", ylabel="‖∇ generator's loss‖")
    gradient.set_title("gradient that the generator gets")
    ranking.set(xscale="log", xlabel="critic steps", ylabel="share of pairs ranked correctly", ylim=(0.45, 1.02))
    ranking.set_title("how well the critic tells real from generated")
    legend_below(canvas, gradient, columns=2)
    return canvas


def conclude(results: Results) -> str:
    def change(case: str, loss: str) -> Array:
        norms = results.values(case, f"gradient_norm_{loss}")
        left: Array = norms[:, -1] / norms.max(axis=1)
        return left

    saturating = change("gan", "gan-minimax")
    kept = {case: change(case, "wgan") for case in ("gp", "clip")}
    non_saturating = results.values("gan", "gradient_norm_gan")
    holds = saturating.max() < 0.1 and min(kept["gp"].min(), kept["clip"].min()) > 0.1
    steps = results.settings.steps
    return (
        f"After {steps} steps against a fixed generator, the gradient of log(1 - D) is down to "
        f"{spread(saturating)} of its largest value, under gp it is at {spread(kept['gp'])} and under clip at "
        f"{spread(kept['clip'])} of theirs: the claim {'holds' if holds else 'does not hold'} here. "
        f"The gradient of -log D goes from {spread(non_saturating[:, 0])} to {spread(non_saturating[:, -1])}, with the "
        f"discriminator ranking {spread(100 * results.ends('separation')['gan'], 3)} % of the pairs correctly."
    )
