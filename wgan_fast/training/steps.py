"""One critic step and one generator step of a Wasserstein GAN: all the mathematics of the training loop.

Nothing here waits for the device: what the steps return are detached tensors, to be read when they are
logged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wgan_fast.constraints import Constraint
from wgan_fast.penalties import first_output
from wgan_fast.training.losses import LossName, critic_loss, generator_loss


class CriticStep(NamedTuple):
    """What a critic step saw, every entry a detached 0-dimensional tensor.

    ``wasserstein_estimate`` is E[D(real)] - E[D(fake)], of logits under a loss of the standard GAN.
    ``gradient_norm`` is the mean norm of the critic's input gradients at the penalty's points, None for a
    constraint without such points; ``penalty`` is None for a constraint without a penalty.
    """

    loss: Tensor
    wasserstein_estimate: Tensor
    penalty: Tensor | None
    gradient_norm: Tensor | None


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether a sample's output depends on the rest of its batch, as it does through batch normalisation."""
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def critic_step(
    critic: nn.Module,
    generator: nn.Module,
    optimizer: torch.optim.Optimizer,
    constraint: Constraint,
    real: Tensor,
    latent: Tensor,
    labels: Tensor | None = None,
    *,
    loss_name: LossName = "wgan",
    joint: bool = True,
) -> CriticStep:
    """Raise E[D(real)] - E[D(fake)] (Arjovsky et al. 2017 and Gulrajani et al. 2017, algorithm 1).

    Args:
        real: ``(B, *sample_shape)``.
        latent: ``(B, latent_dim)``, the generator's input.
        labels: ``(B,)``, the classes of the real samples, for a pair that takes them as its second argument; the
            generated samples are of the same classes, and so are the points of the penalty between them.
        loss_name: what the critic minimises, `losses.critic_loss`.
        joint: score real and generated samples as one batch, which is faster; wrong for a critic that
            `has_batch_statistics`, whose papers score them apart.
    """
    condition = () if labels is None else (labels,)
    with torch.no_grad():
        fake = generator(latent, *condition)
    if joint:
        scores = first_output(critic(torch.cat([real, fake]), *(torch.cat([c, c]) for c in condition)))
        real_scores, fake_scores = scores[: len(real)], scores[len(real) :]
    else:
        real_scores, fake_scores = (first_output(critic(x, *condition)) for x in (real, fake))
    wasserstein_estimate = real_scores.mean() - fake_scores.mean()
    loss = critic_loss(loss_name, real_scores, fake_scores)
    penalty = gradient_norm = None
    penalised = constraint.penalty(critic, real, fake, critic_args=condition)
    if penalised is not None:
        term, norms = penalised
        loss = loss + term
        penalty, gradient_norm = term.detach(), norms.mean()
    _set_gradients(loss, optimizer)
    loss = loss.detach()
    regularisation = constraint.add_gradients(critic)
    if regularisation is not None:
        loss = loss + regularisation
        penalty = regularisation if penalty is None else penalty + regularisation
    optimizer.step()
    return CriticStep(loss, wasserstein_estimate.detach(), penalty, gradient_norm)


def generator_step(
    critic: nn.Module,
    generator: nn.Module,
    optimizer: torch.optim.Optimizer,
    latent: Tensor,
    labels: Tensor | None = None,
    *,
    loss_name: LossName = "wgan",
) -> Tensor:
    """Raise E[D(G(z))], or E[D(G(z, y), y)] given ``labels`` y, or lower another `losses.generator_loss`; returns the
    loss, detached.

    The gradient is taken with respect to the generator's parameters alone, so autograd never forms the
    critic's weight gradients.
    """
    condition = () if labels is None else (labels,)
    loss = generator_loss(loss_name, first_output(critic(generator(latent, *condition), *condition)))
    _set_gradients(loss, optimizer)
    optimizer.step()
    return loss.detach()


def _set_gradients(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
