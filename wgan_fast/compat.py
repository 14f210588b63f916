"""The names that existing scripts call, with their own weighting, axis and return.

Each takes the arguments of the function that it stands in for, so that a script changes one import. The values
are those of the textbook lines it replaces, at the same alpha; alpha is drawn per sample from the device's
generator unless it is given. ``device`` is accepted and not needed: the data's device rules. ``real`` and
``fake`` are detached, and keep their ``requires_grad``.

New code calls ``wgan_fast.gradient_penalty``, which all of these are settings of.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wgan_fast import penalties
from wgan_fast.functional import gradient_norm_penalty

__all__ = [
    "cal_gradient_penalty",
    "calc_gradient_penalty",
    "compute_gradient_penalty",
    "gradient_penalty",
    "packed_gradient_penalty",
]


def calc_gradient_penalty(
    netD: penalties.Critic, real_data: Tensor, fake_data: Tensor, LAMBDA: float = 10.0, *, alpha: Tensor | None = None
) -> Tensor:
    """As in the PyTorch port of the WGAN-GP authors' code (caogang/wgan-gp): weighted by ``LAMBDA``.

    ``LAMBDA`` was a global there: 10, and 0.1 for the toy data. Equivalent to::

        interpolates = alpha * real_data + (1 - alpha) * fake_data
        gradients = grad(netD(interpolates), interpolates, ...)[0].view(len(real_data), -1)
        return ((gradients.norm(2, dim=1) - 1) ** 2).mean() * LAMBDA
    """
    return penalties.gradient_penalty(netD, real_data, fake_data, weight=LAMBDA, alpha=alpha)


def compute_gradient_penalty(
    D: penalties.Critic, real_samples: Tensor, fake_samples: Tensor, *, alpha: Tensor | None = None
) -> Tensor:
    """As in eriklindernoren/PyTorch-GAN: unweighted. Equivalent to::

    interpolates = alpha * real_samples + (1 - alpha) * fake_samples
    gradients = grad(D(interpolates), interpolates, ...)[0].view(len(real_samples), -1)
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean()
    """
    return penalties.gradient_penalty(D, real_samples, fake_samples, alpha=alpha)


def gradient_penalty(
    critic: penalties.Critic,
    real: Tensor,
    fake: Tensor,
    device: torch.device | str | None = None,
    *,
    alpha: Tensor | None = None,
) -> Tensor:
    """As in many tutorials (aladdinpersson/Machine-Learning-Collection and its copies): unweighted.

    The same lines as ``compute_gradient_penalty``'s.
    """
    return penalties.gradient_penalty(critic, real, fake, alpha=alpha)


def cal_gradient_penalty(
    netD: penalties.Critic,
    real_data: Tensor,
    fake_data: Tensor,
    device: torch.device | str | None = None,
    type: str = "mixed",
    constant: float = 1.0,
    lambda_gp: float = 10.0,
    *,
    alpha: Tensor | None = None,
) -> tuple[Any, Tensor | None]:
    """As in junyanz/pytorch-CycleGAN-and-pix2pix: weighted by ``lambda_gp``, and the gradients (B, N) as well.

    ``(0.0, None)`` for ``lambda_gp`` <= 0. Equivalent to, with ``interpolates`` by ``type`` "mixed", "real" or
    "fake"::

        gradients = grad(netD(interpolates), interpolates, ...)[0].view(len(real_data), -1)
        return (((gradients + 1e-16).norm(2, dim=1) - constant) ** 2).mean() * lambda_gp, gradients

    but without the 1e-16, which kept a zero gradient from becoming NaN: here it cannot.
    """
    if lambda_gp <= 0:
        return 0.0, None
    if type not in ("mixed", "real", "fake"):
        raise ValueError(f"type={type!r}: expected 'mixed', 'real' or 'fake'")
    penalties.check_critic(netD)
    points = penalties.penalty_points(type, real_data, fake_data, alpha, None, "auto")
    gradients = penalties.input_gradient(netD, points).flatten(1)
    return gradient_norm_penalty(gradients, target=constant, weight=lambda_gp), gradients


def packed_gradient_penalty(
    discriminator: penalties.Critic,
    real_data: Tensor,
    fake_data: Tensor,
    device: torch.device | str | None = None,
    pac: int = 10,
    lambda_: float = 10.0,
    *,
    alpha: Tensor | None = None,
) -> Tensor:
    """As ``Discriminator.calc_gradient_penalty`` in sdv-dev/CTGAN: one sample is a pack of ``pac`` rows.

    In the class, ``calc_gradient_penalty = packed_gradient_penalty``. The discriminator takes (B, D) rows and
    gives a score a pack, (B / pac, 1). One alpha a pack, shape (B / pac,), and the norm over all its values.
    Equivalent to::

        interpolates = alpha.repeat_interleave(pac) * real_data + ...
        gradients = grad(discriminator(interpolates), interpolates, ...)[0]
        return ((gradients.view(-1, pac * D).norm(2, dim=1) - 1) ** 2).mean() * lambda_

    Raises:
        ValueError: the number of rows is no multiple of ``pac``.
    """
    if pac < 1 or len(real_data) % pac != 0:
        raise ValueError(f"pac={pac}: expected a divisor of the number of rows, {len(real_data)}")
    packs = (len(real_data) // pac, -1)
    penalty: Tensor = penalties.gradient_penalty(
        lambda x: discriminator(x.reshape(real_data.shape)),
        real_data.reshape(packs),
        fake_data.reshape(packs),
        weight=lambda_,
        alpha=alpha,
    )
    return penalty
