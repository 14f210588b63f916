"""Lipschitz constraints on a critic: one small interface for training loops, one class per constraint.

A loop that works with every constraint::

    constraint = GradientPenalty(weight=10.0)
    critic = constraint.prepare(critic, real[:1])
    optimizer = wgan_fast.optim.Adam(critic.parameters(), lr=1e-4, clip_value=constraint.clip_value)
    ...
    loss = critic(fake).mean() - critic(real).mean()
    penalty = constraint.penalty(critic, real, fake)
    if penalty is not None:
        loss = loss + penalty[0]
    optimizer.zero_grad()
    loss.backward()
    constraint.add_gradients(critic)
    optimizer.step()

=====================================  ==========================================================================
``Constraint()``                       none
``WeightClipping(0.01)``               all weights in [-c, c] (WGAN)
``GradientPenalty(10.0)``              input gradients of norm 1, or at most 1 with ``one_sided`` (WGAN-GP, WGAN-LP)
``GradientPenalty.r1()``, ``.r2()``    small input gradients at real or at generated samples
``GradientPenalty.r1r2()``             small input gradients at both
``GradientPenalty.dragan()``           input gradients of norm 1 around real samples
``SpectralNorm()``                     every weight matrix divided by its largest singular value (SN-GAN)
``OrthogonalRegularization(1e-4)``     rows of every weight matrix nearly orthonormal
``LipschitzNetwork()``                 layers that are 1-Lipschitz by construction
=====================================  ==========================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wgan_fast.functional import clip_bounds
from wgan_fast.functional.gradient_norm_penalty import gradient_norm_penalty
from wgan_fast.nn import add_orthogonal_gradients_, spectral_norm, to_lipschitz
from wgan_fast.nn.orthogonal_regularization import Form
from wgan_fast.nn.spectral_norm import Convolution
from wgan_fast.penalties import Critic, Points, gradient_penalty


class Constraint:
    """The interface that a training loop calls. This class does nothing; a constraint overrides what it needs.

    Attributes:
        clip_value: the bound that the critic's optimizer clips the weights to after each step, or None.
        scored: which of the samples that a loop scores the penalty is taken at, "real", "fake" or both, in this order;
            empty if it has points of its own. A loop may then take scores and gradients from one pass
            (``score_and_gradient``) and the penalty from ``penalty_of``, in place of ``penalty``.
    """

    clip_value: float | tuple[float, float] | None = None
    scored: tuple[Literal["real", "fake"], ...] = ()

    def prepare(self, critic: nn.Module, example: Tensor) -> nn.Module:
        """The critic to train, made before its optimizer; ``critic`` itself, changed in place, or another module.

        Args:
            critic: as the user built it, on its device.
            example: ``(1, *sample_shape)``, of which only shape, dtype and device count.

        Raises:
            ValueError: the constraint does not fit this critic; the message names the layer.
        """
        return critic

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, **options: Any) -> tuple[Tensor, Tensor] | None:
        """The weighted term to add to the critic's loss and the detached norms behind it, or None."""
        return None

    def penalty_of(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """`penalty` from the input gradients at the samples in ``scored``, ``(B, ...)`` or ``(2B, ...)``.

        Raises:
            TypeError: the constraint has no penalty at scored samples.
        """
        raise TypeError(f"{type(self).__name__} has no penalty at scored samples")

    def add_gradients(self, critic: nn.Module) -> Tensor | None:
        """Add to every ``.grad`` the gradient of a term of the weights alone, after backward and before the step.

        Returns:
            The weighted term, 0-dimensional and detached, or None where there is none.
        """
        return None


@dataclass(frozen=True)
class WeightClipping(Constraint):
    """All weights in [-clip_value, clip_value] after each critic step (Arjovsky et al. 2017, algorithm 1)."""

    clip_value: float | tuple[float, float] = 0.01

    def __post_init__(self) -> None:
        clip_bounds(self.clip_value)


@dataclass(frozen=True)
class GradientPenalty(Constraint):
    """weight * mean_b (‖g_b‖ - target)² (Gulrajani et al. 2017); ``one_sided`` for WGAN-LP."""

    weight: float = 10.0
    target: float = 1.0
    one_sided: bool = False
    points: Points | Literal["both"] = "mixed"

    @property
    def scored(self) -> tuple[Literal["real", "fake"], ...]:  # type: ignore[override]  # derived from points here
        chosen: dict[str, tuple[Literal["real", "fake"], ...]]
        chosen = {"real": ("real",), "fake": ("fake",), "both": ("real", "fake")}
        return chosen.get(self.points, ())

    @classmethod
    def r1(cls, gamma: float = 10.0) -> GradientPenalty:
        """gamma / 2 * mean_b ‖g_b‖² at real samples (Mescheder et al. 2018, equation 9; gamma 10 in its section 5)."""
        return cls(gamma / 2, target=0.0, points="real")

    @classmethod
    def r2(cls, gamma: float = 10.0) -> GradientPenalty:
        """gamma / 2 * mean_b ‖g_b‖² at generated samples (Mescheder et al. 2018, equation 10)."""
        return cls(gamma / 2, target=0.0, points="fake")

    @classmethod
    def r1r2(cls, gamma: float = 1.0) -> GradientPenalty:
        """gamma / 2 * (R1 + R2) (Huang et al. 2024, section 2: a relativistic loss converges under both)."""
        return cls(gamma / 2, target=0.0, points="both")

    @classmethod
    def dragan(cls, weight: float = 10.0) -> GradientPenalty:
        """weight * mean_b (‖g_b‖ - 1)² around real samples (Kodali et al. 2017, lambda 10)."""
        return cls(weight, points="dragan")

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """``options`` are those of ``gradient_penalty``: critic_args, generator, alpha, ..."""
        if self.points == "both":
            each = [replace(self, points=points).penalty(critic, real, fake, **options) for points in self.scored]
            return each[0][0] + each[1][0], torch.cat([norms for _, norms in each])
        return gradient_penalty(
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

    def penalty_of(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        if not self.scored:
            return super().penalty_of(gradients)
        weight = self.weight * len(self.scored)  # the mean over both kinds of samples is half the sum of their means
        return gradient_norm_penalty(
            gradients, target=self.target, one_sided=self.one_sided, weight=weight, return_norms=True
        )


@dataclass(frozen=True)
class SpectralNorm(Constraint):
    """Every weight matrix divided by its largest singular value (Miyato et al. 2018); see `nn.spectral_norm`."""

    convolution: Convolution = "matrix"

    def prepare(self, critic: nn.Module, example: Tensor) -> nn.Module:
        return spectral_norm(critic, convolution=self.convolution, example=example)


@dataclass(frozen=True)
class OrthogonalRegularization(Constraint):
    """weight * sum over layers of ‖W Wᵀ - I‖² (Brock et al. 2017, equation 3), or of its off-diagonal part.

    ``form="off-diagonal"`` is that of Brock et al. 2019, equation 5, with weight 1e-4 there. See
    `nn.add_orthogonal_gradients_`.
    """

    weight: float = 1e-4
    form: Form = "full"

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ValueError(f"weight: expected a finite number that is not negative, got {self.weight}")

    def add_gradients(self, critic: nn.Module) -> Tensor:
        return add_orthogonal_gradients_(critic, self.weight, form=self.form)


@dataclass(frozen=True)
class LipschitzNetwork(Constraint):
    """A critic of 1-Lipschitz layers in place of the given one (Anil et al. 2019); see `nn.to_lipschitz`."""

    def prepare(self, critic: nn.Module, example: Tensor) -> nn.Module:
        return to_lipschitz(critic)
