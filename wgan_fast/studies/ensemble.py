"""Many small critics trained side by side, one per position of the generated distribution.

Their layers are batched matrix products, so that seventeen critics take little longer than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wgan_fast import gradient_norm_penalty, interpolate
from wgan_fast.training.report.metrics import wasserstein_1

Draw = Callable[[], tuple[Tensor, Tensor]]
"""Draws real and generated samples, each ``(members, B, features)``."""


@dataclass(frozen=True)
class EnsembleRun:
    """The budget of the critics and discriminators at so many positions of the generated distribution."""

    positions: int
    steps: int
    width: int = 32
    batch: int = 128
    furthest: float = 3.0
    lambda_gp: float = 10.0
    learning_rate: float = 1e-2


class CriticEnsemble(nn.Module):
    """``members`` independent perceptrons; maps ``(members, B, features)`` to scores ``(members, B)``."""

    def __init__(self, members: int, features: int, width: int, hidden_layers: int = 2) -> None:
        super().__init__()
        sizes = [features, *[width] * hidden_layers, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            bound = 1 / math.sqrt(inputs)
            self.weights.append(nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound)))

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = x if place == last else nn.functional.leaky_relu(x, 0.2)
        return x.squeeze(-1)


def train_critics(
    critics: CriticEnsemble, draw: Draw, steps: int, *, lambda_gp: float, one_sided: bool, lr: float
) -> None:
    """WGAN-GP (or, ``one_sided``, WGAN-LP) critics against fixed distributions, towards convergence."""

    def loss() -> Tensor:
        real, fake = draw()
        members, batch, features = real.shape
        points = interpolate(real.reshape(-1, features), fake.reshape(-1, features)).requires_grad_(True)
        scores = critics(points.view(members, batch, features)).sum()
        (gradients,) = torch.autograd.grad(scores, points, create_graph=True)
        penalty: Tensor = gradient_norm_penalty(gradients, one_sided=one_sided, weight=lambda_gp * members)
        gap: Tensor = critics(fake).mean(dim=1) - critics(real).mean(dim=1)
        return gap.sum() + penalty

    _descend(critics, loss, steps, lr)


def train_discriminators(critics: CriticEnsemble, draw: Draw, steps: int, *, lr: float) -> None:
    """The standard GAN's discriminators (Goodfellow et al. 2014, equation 1); scores are their logits."""

    def loss() -> Tensor:
        real, fake = draw()
        softplus = nn.functional.softplus
        cross_entropy: Tensor = softplus(-critics(real)).mean(dim=1) + softplus(critics(fake)).mean(dim=1)
        return cross_entropy.sum()

    _descend(critics, loss, steps, lr)


def _descend(critics: CriticEnsemble, loss: Callable[[], Tensor], steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam(critics.parameters(), lr=lr, betas=(0.5, 0.9))
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(loss())
        optimizer.step()
        decay.step()


class Reading(NamedTuple):
    """A divergence as the critics estimate it, and its derivative when the generated points move along the first
    axis; each ``(members,)``."""

    value: Tensor
    gradient: Tensor


def wasserstein_reading(critics: CriticEnsemble, real: Tensor, fake: Tensor) -> Reading:
    """E[D(real)] - E[D(fake)], and minus the mean slope of D at the generated points."""
    moved = fake.clone().requires_grad_(True)
    value = critics(real).mean(dim=1) - critics(moved).mean(dim=1)
    return _read(value, moved)


def jensen_shannon_reading(critics: CriticEnsemble, real: Tensor, fake: Tensor) -> Reading:
    """log 2 + (E[log D(real)] + E[log(1 - D(fake))]) / 2, JS itself for the optimal D (Goodfellow et al. 2014,
    theorem 1)."""
    moved = fake.clone().requires_grad_(True)
    softplus = nn.functional.softplus
    cross_entropy = softplus(-critics(real)).mean(dim=1) + softplus(critics(moved)).mean(dim=1)
    return _read(math.log(2) - cross_entropy / 2, moved)


def kullback_leibler_reading(critics: CriticEnsemble, real: Tensor) -> Tensor:
    """``(members,)`` E[log p_real - log p_fake] over real samples: the mean logit of the optimal discriminator."""
    with torch.no_grad():
        scores: Tensor = critics(real)
        return scores.mean(dim=1)


def _read(value: Tensor, moved: Tensor) -> Reading:
    (slope,) = torch.autograd.grad(value.sum(), moved)
    return Reading(value.detach(), slope[..., 0].sum(dim=1))


def train_and_read(run: EnsembleRun, draw: Draw, draw_test: Draw, *, features: int, one_sided: bool) -> dict[str, Any]:
    """Train critics and discriminators, and read the divergences that they find in other samples."""
    critics, discriminators = (CriticEnsemble(run.positions, features, run.width) for _ in range(2))
    train_critics(critics, draw, run.steps, lambda_gp=run.lambda_gp, one_sided=one_sided, lr=run.learning_rate)
    train_discriminators(discriminators, draw, run.steps, lr=run.learning_rate)
    real, fake = draw_test()
    w1, js = wasserstein_reading(critics, real, fake), jensen_shannon_reading(discriminators, real, fake)
    return {
        "w1_pot": [wasserstein_1(x, y) for x, y in zip(real, fake, strict=True)],
        "w1_critic": w1.value,
        "w1_gradient_critic": w1.gradient,
        "js_discriminator": js.value,
        "js_gradient_discriminator": js.gradient,
        "kl_discriminator": kullback_leibler_reading(discriminators, real),
    }


def best_estimate(distance: Any, lambda_gp: float) -> Any:
    """What the best critic under the penalty estimates for two distributions d apart: d (1 + d / (2 λ))."""
    return distance * (1 + distance / (2 * lambda_gp))
