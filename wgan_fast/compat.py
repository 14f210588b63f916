"""The names that existing scripts call, with their own weighting, axis and return.

Each takes the arguments of the function that it stands in for, so that a script changes one import. The values
are those of the textbook lines it replaces, at the same alpha; alpha is drawn per sample from the device's
generator unless it is given. ``device`` is accepted and ignored: the device is that of the data. ``real`` and
``fake`` are detached, and keep their ``requires_grad``.

New code calls ``wgan_fast.gradient_penalty``, of which all of these are special cases.
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
    "compute_grad_pen",
    "compute_gradient_penalty",
    "d_r1_loss",
    "gradient_penalty",
    "packed_gradient_penalty",
    "r1_reg",
    "zero_centered_gradient_penalty",
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
    """As in eriklindernoren/PyTorch-GAN: unweighted.

    Equivalent to::

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

    Returns ``(0.0, None)`` for ``lambda_gp`` <= 0. Equivalent, with ``interpolates`` chosen by ``type`` ("mixed",
    "real" or "fake"), to::

        gradients = grad(netD(interpolates), interpolates, ...)[0].view(len(real_data), -1)
        return (((gradients + 1e-16).norm(2, dim=1) - constant) ** 2).mean() * lambda_gp, gradients

    but without the 1e-16, which guards against NaN at a zero gradient: here none occurs.
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
    gives one score per pack, (B / pac, 1). One alpha per pack, shape (B / pac,), and the norm over all its values.
    Equivalent to::

        interpolates = alpha.repeat_interleave(pac) * real_data + ...
        gradients = grad(discriminator(interpolates), interpolates, ...)[0]
        return ((gradients.view(-1, pac * D).norm(2, dim=1) - 1) ** 2).mean() * lambda_

    Raises:
        ValueError: the number of rows is not a multiple of ``pac``.
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


def r1_reg(d_out: Tensor, x_in: Tensor) -> Tensor:
    """As in clovaai/stargan-v2 and its copies: half the mean squared norm, from scores already computed.

    ``x_in`` must require grad and ``d_out`` be computed from it. Equivalent to::

        (gradient,) = torch.autograd.grad(d_out.sum(), x_in, create_graph=True)
        return 0.5 * gradient.pow(2).flatten(1).sum(1).mean()

    The forward pass has run already, so nothing can be shared with it; ``r1_penalty(critic, x, weight=0.5,
    return_scores=True)`` gives penalty and scores from one pass.
    """
    (gradients,) = torch.autograd.grad(d_out.sum(), x_in, create_graph=True)
    return gradient_norm_penalty(gradients, target=0.0, weight=0.5)


def d_r1_loss(real_pred: Tensor, real_img: Tensor) -> Tensor:
    """As in rosinality/stylegan2-pytorch: the mean squared norm, as ``r1_reg`` does.

    Its trainer weights it by r1 / 2, and by 16 where it is taken every 16 steps.
    """
    (gradients,) = torch.autograd.grad(real_pred.sum(), real_img, create_graph=True)
    return gradient_norm_penalty(gradients, target=0.0)


def zero_centered_gradient_penalty(samples: Tensor, critics: Tensor) -> Tensor:
    """As in brownvc/R3GAN (``Trainer.py``): one value per sample, unweighted; the trainer takes gamma / 2 of it.

    ``samples`` must require grad and ``critics``, the scores, come from them. Equivalent to::

        (gradient,) = torch.autograd.grad(critics.sum(), samples, create_graph=True)
        return gradient.square().sum([1, 2, 3])

    ``r1_penalty(critic, samples, reduction="none", return_scores=True)`` gives it with the scores from one pass.
    """
    (gradients,) = torch.autograd.grad(critics.sum(), samples, create_graph=True)
    return gradient_norm_penalty(gradients, target=0.0, reduction="none")


def compute_grad_pen(
    discriminator: penalties.Critic, expert_state: Tensor, expert_next_state: Tensor, lambda_: float = 10.0
) -> Tensor:
    """As in AMP_for_hardware: R1 on pairs of states, weighted. amp-rsl-rl's method of this name has other arguments.

    ``discriminator`` scores (B, 2 D) rows: a state and its successor. Equivalent to::

        expert_data = torch.cat([expert_state, expert_next_state], dim=-1).requires_grad_(True)
        (grad,) = torch.autograd.grad(discriminator(expert_data), expert_data, ones, create_graph=True)
        return lambda_ * (grad.norm(2, dim=1) - 0).pow(2).mean()
    """
    pairs = torch.cat([expert_state, expert_next_state], dim=-1)
    return penalties.r1_penalty(discriminator, pairs, weight=lambda_)
