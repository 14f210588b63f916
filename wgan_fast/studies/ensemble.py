"""Many small critics trained side by side, one per position θ of the generated distribution.

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

from wgan_fast import gradient_penalty
from wgan_fast.training.report.metrics import wasserstein_1


@dataclass(frozen=True)
class EnsembleRun:
    """The budget of the critics and discriminators at so many positions of the generated distribution."""

    positions: int
    steps: int
    width: int = 32
    batch: int = 128
    nearest: float = 0.0
    furthest: float = 3.0
    lambda_gp: float = 10.0
    learning_rate: float = 1e-2

    def theta(self) -> list[float]:
        """The positions."""
        return torch.linspace(self.nearest, self.furthest, self.positions).tolist()


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


Divergence = Callable[[CriticEnsemble, Tensor, Tensor], Tensor]
"""From critics, real and generated samples to what they measure between them, which is greatest for optimal ones."""


def wasserstein(critics: CriticEnsemble, real: Tensor, fake: Tensor) -> Tensor:
    """``(members,)`` E[D(real)] - E[D(fake)]: W1 for the optimal critic."""
    gap: Tensor = critics(real).mean(dim=1) - critics(fake).mean(dim=1)
    return gap


def jensen_shannon(discriminators: CriticEnsemble, real: Tensor, fake: Tensor) -> Tensor:
    """``(members,)`` log 2 + (E[log D(real)] + E[log(1 - D(fake))]) / 2: JS for the optimal D, of which the scores are
    the logits (Goodfellow et al. 2014, theorem 1)."""
    softplus = nn.functional.softplus
    cross_entropy = softplus(-discriminators(real)).mean(dim=1) + softplus(discriminators(fake)).mean(dim=1)
    return math.log(2) - cross_entropy / 2


class Reading(NamedTuple):
    """A divergence as the critics estimate it, and its derivative when the generated points move along the first
    axis; each ``(members,)``."""

    value: Tensor
    gradient: Tensor


def read(divergence: Divergence, critics: CriticEnsemble, real: Tensor, fake: Tensor) -> Reading:
    """For `wasserstein` the derivative is minus the mean slope of D at the generated points."""
    moved = fake.clone().requires_grad_(True)
    value = divergence(critics, real, moved)
    (slope,) = torch.autograd.grad(value.sum(), moved)
    return Reading(value.detach(), slope[..., 0].sum(dim=1))


def train_and_read(
    run: EnsembleRun, draw: Callable[[int, int], Tensor], test_samples: int, *, features: int, one_sided: bool
) -> dict[str, Any]:
    """Train critics and discriminators between a distribution and its copies shifted by θ along the first axis, and
    read the divergences that they find in other samples.

    Args:
        draw: from members and count to ``(members, count, features)`` points at θ = 0.
        one_sided: the penalty of WGAN-LP instead of WGAN-GP's.
    """
    critics, discriminators = (CriticEnsemble(run.positions, features, run.width) for _ in range(2))
    shift = torch.zeros(run.positions, 1, features)
    shift[:, 0, 0] = torch.tensor(run.theta())

    def samples(count: int) -> tuple[Tensor, Tensor]:
        return draw(run.positions, count), draw(run.positions, count) + shift

    def scores(points: Tensor) -> Tensor:
        by_member: Tensor = critics(points.unflatten(0, (run.positions, run.batch)))
        return by_member.flatten()

    def critic_loss() -> Tensor:
        real, fake = samples(run.batch)
        weight = run.lambda_gp * run.positions  # the penalty is a mean over the members, of which the sum is wanted
        penalty = gradient_penalty(scores, real.flatten(0, 1), fake.flatten(0, 1), weight=weight, one_sided=one_sided)
        return penalty - wasserstein(critics, real, fake).sum()

    def discriminator_loss() -> Tensor:
        return -2 * jensen_shannon(discriminators, *samples(run.batch)).sum()  # the cross-entropy is 2 log 2 - 2 JS

    _descend(critics, critic_loss, run)
    _descend(discriminators, discriminator_loss, run)
    real, fake = samples(test_samples)
    w1, js = read(wasserstein, critics, real, fake), read(jensen_shannon, discriminators, real, fake)
    return {
        "w1_pot": [wasserstein_1(x, y) for x, y in zip(real, fake, strict=True)],
        "w1_critic": w1.value,
        "w1_gradient_critic": w1.gradient,
        "js_discriminator": js.value,
        "js_gradient_discriminator": js.gradient,
        # E[log p_real - log p_fake] over real samples: the mean logit of the optimal discriminator.
        "kl_discriminator": discriminators(real).mean(dim=1).detach(),
    }


def _descend(critics: CriticEnsemble, loss: Callable[[], Tensor], run: EnsembleRun) -> None:
    optimizer = torch.optim.Adam(critics.parameters(), lr=run.learning_rate, betas=(0.5, 0.9))
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=run.steps)
    for _ in range(run.steps):
        optimizer.zero_grad()
        torch.autograd.backward(loss())
        optimizer.step()
        decay.step()


def best_estimate(distance: Any, lambda_gp: float) -> Any:
    """What the best critic under the penalty estimates for two distributions d apart: d (1 + d / (2 λ))."""
    return distance * (1 + distance / (2 * lambda_gp))
