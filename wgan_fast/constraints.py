"""What a training loop takes to keep its critic Lipschitz: one small interface, one class a constraint.

constraint = GradientPenalty(weight=10.0)
optimizer = wgan_fast.optim.Adam(critic.parameters(), lr=1e-4, clip_value=constraint.clip_value)
...
loss = critic(fake).mean() - critic(real).mean()
penalty = constraint.penalty(critic, real, fake)
if penalty is not None:
    loss = loss + penalty
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from wgan_fast.functional import clip_bounds
from wgan_fast.penalties import Critic, Points, gradient_penalty


class Constraint(Protocol):
    """What the loop asks of a constraint."""

    @property
    def clip_value(self) -> float | tuple[float, float] | None:
        """The bound that the critic's optimizer clips the weights to after each step, or None."""

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, **options: Any) -> tuple[Tensor, Tensor] | None:
        """The weighted term to add to the critic's loss and the detached norms behind it, or None."""


@dataclass(frozen=True)
class WeightClipping:
    """All weights in [-clip_value, clip_value] after each critic step (Arjovsky et al. 2017, algorithm 1)."""

    clip_value: float | tuple[float, float] = 0.01

    def __post_init__(self) -> None:
        clip_bounds(self.clip_value)

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, **options: Any) -> None:
        return None


@dataclass(frozen=True)
class GradientPenalty:
    """weight * mean_b (‖g_b‖ - target)² (Gulrajani et al. 2017); ``one_sided`` for WGAN-LP."""

    weight: float = 10.0
    target: float = 1.0
    one_sided: bool = False
    points: Points = "mixed"
    clip_value: None = None

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """``options`` are those of ``gradient_penalty``: critic_args, generator, alpha, ..."""
        penalty, norms = gradient_penalty(
            critic,
            real,
            fake,
            weight=self.weight,
            target=self.target,
            one_sided=self.one_sided,
            points=self.points,
            return_norms=True,
            **options,
        )
        return penalty, norms
