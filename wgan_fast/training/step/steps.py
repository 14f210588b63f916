"""One critic step and one generator step of a Wasserstein GAN: all the mathematics of the training loop.

Nothing here synchronises with the device: the steps return detached tensors, which are read when they are
logged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm

from wgan_fast.constraints import Constraint, GradientPenalty
from wgan_fast.critic_gradients import first_output, scored_with_gradient
from wgan_fast.double_backward.linear import fast_linear
from wgan_fast.reference import accumulation_dtype
from wgan_fast.training.step.feedforward import critic_gradients
from wgan_fast.training.step.layers import Layer
from wgan_fast.training.step.losses import CriticStep as CriticStep  # where a loop looks for it
from wgan_fast.training.step.losses import LossName, critic_loss, generator_loss
from wgan_fast.training.step.precision import autocast

UNSCALED = GradScaler(enabled=False)
"""Its methods do nothing but the optimizer's step."""


class Descent(NamedTuple):
    """How a step takes its gradients and its optimizer follows them; by default as plain PyTorch does in fp32.

    ``autocast_dtype``: autocast of both networks to this type; scores, losses and the penalty are fp32 in any case.
    ``scaler``: the optimizer's own loss scaling, which fp16 needs. ``keep_gradients``: write gradients into the tensors
    that hold the last step's, as a CUDA graph needs fixed addresses. ``average``: called with the parameters once each
    has its gradient, which several processes average.
    """

    autocast_dtype: torch.dtype | None = None
    scaler: GradScaler | None = None
    keep_gradients: bool = False
    average: Callable[[Sequence[nn.Parameter]], None] | None = None


PLAIN = Descent()
"""fp32, autograd's own tensors, one process."""


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
    layers: Sequence[Layer] | None = None,
    alpha: Tensor | None = None,
    penalty_scale: Tensor | None = None,
    descent: Descent = PLAIN,
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
        layers: what `feedforward.written_out` returned for this critic and constraint: its gradients are then written
            out, in two thirds of autograd's launches.
        alpha: ``(B,)``, positions of the random points of a `GradientPenalty`; drawn by default.
        penalty_scale: a 0-dimensional factor on the penalty, which a schedule may change, within a CUDA graph too.
        descent: how gradients are taken and followed.

    Raises:
        ValueError: ``layers`` with a scaler, a ``penalty_scale``, or another constraint than a `GradientPenalty`.
    """
    scaler, dtype = descent.scaler, descent.autocast_dtype
    plain = isinstance(constraint, GradientPenalty) and scaler is None and penalty_scale is None
    if layers is not None and not plain:
        raise ValueError("layers: expected None with a scaler, with a penalty_scale, or under this constraint")
    condition = () if labels is None else (labels,)
    with fast_linear(real.device), autocast(real.device.type, dtype), torch.no_grad():
        fake = generator(latent, *condition).to(real.dtype)
    if layers is not None and isinstance(constraint, GradientPenalty):
        seen, gradients = critic_gradients(layers, real, fake, constraint, loss_name, dtype, alpha, labels)
        _assign([gradients[p] for p in _parameters(optimizer)], optimizer, descent)
    else:
        with fast_linear(real.device), autocast(real.device.type, dtype):
            real_scores, fake_scores, slopes = _judged(critic, real, fake, condition, constraint.scored, joint, scaler)
            estimate = real_scores.mean() - fake_scores.mean()
            loss = critic_loss(loss_name, real_scores, fake_scores)
            if slopes is None:
                options = {"scaler": scaler, "alpha": alpha}
                given = {name: value for name, value in options.items() if value is not None}
                penalised = constraint.penalty(critic, real, fake, critic_args=condition, **given)
            else:
                penalised = constraint.penalty_of(slopes)
            seen = CriticStep(loss, estimate.detach(), None, None)
            if penalised is not None:
                penalty, norms = penalised
                penalty = penalty if penalty_scale is None else penalty * penalty_scale
                loss = loss + penalty
                seen = seen._replace(loss=loss, penalty=penalty.detach(), gradient_norm=norms.mean().detach())
        _differentiate(loss, optimizer, descent)
        seen = seen._replace(loss=loss.detach())
    regularisation = constraint.add_gradients(critic)
    if regularisation is not None:
        penalty = regularisation if seen.penalty is None else seen.penalty + regularisation
        seen = seen._replace(loss=seen.loss + regularisation, penalty=penalty)
    _step(optimizer, descent)
    return seen


def _judged(
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    condition: tuple[Tensor, ...],
    scored: tuple[str, ...],
    joint: bool,
    scaler: GradScaler | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scores of real and of generated samples, and the input gradients at those that are named in ``scored``."""
    batches = [(real, condition, "real" in scored), (fake, condition, "fake" in scored)]
    if joint and len(scored) != 1:
        batches = [(torch.cat([real, fake]), tuple(torch.cat([c, c]) for c in condition), bool(scored))]
    found, slopes = [], []
    for x, given, differentiated in batches:
        if differentiated:
            scores, gradients = scored_with_gradient(critic, x, given, scaler=scaler)
            slopes.append(gradients)
        else:
            scores = critic(x, *given)
        found.append(_scores(scores))
    real_scores, fake_scores = found if len(found) == 2 else found[0].split([len(real), len(fake)])
    if len(slopes) == 2:
        slopes = [torch.cat(slopes)]
    return real_scores, fake_scores, slopes[0] if slopes else None


def generator_step(
    critic: nn.Module,
    generator: nn.Module,
    optimizer: torch.optim.Optimizer,
    latent: Tensor,
    labels: Tensor | None = None,
    *,
    real: Tensor | None = None,
    loss_name: LossName = "wgan",
    descent: Descent = PLAIN,
) -> Tensor:
    """Raise E[D(G(z))], or E[D(G(z, y), y)] given ``labels`` y, or lower another `losses.generator_loss`; returns the
    loss, detached.

    The gradient is taken with respect to the generator's parameters alone, so autograd never forms the
    critic's weight gradients. ``real``: samples of the same classes, for a loss that compares scores.
    """
    condition = () if labels is None else (labels,)
    with fast_linear(latent.device), autocast(latent.device.type, descent.autocast_dtype):
        with torch.no_grad():
            real_scores = None if real is None else _scores(critic(real, *condition))
        loss = generator_loss(loss_name, _scores(critic(generator(latent, *condition), *condition)), real_scores)
    _differentiate(loss, optimizer, descent)
    _step(optimizer, descent)
    return loss.detach()


def _scores(output: Any) -> Tensor:
    """Scores in fp32 (fp64 for fp64): the mean of a batch in bf16 would have two decimal digits."""
    scores = first_output(output)
    return scores.to(accumulation_dtype(scores.dtype))


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def _differentiate(loss: Tensor, optimizer: torch.optim.Optimizer, descent: Descent) -> None:
    scaler = descent.scaler or UNSCALED
    gradients = torch.autograd.grad(scaler.scale(loss), _parameters(optimizer), allow_unused=True)
    _assign(gradients, optimizer, descent)
    scaler.unscale_(optimizer)


def _assign(gradients: Sequence[Tensor | None], optimizer: torch.optim.Optimizer, descent: Descent) -> None:
    parameters = _parameters(optimizer)
    pairs = list(zip(parameters, gradients, strict=True))
    if descent.keep_gradients and all((p.grad is None) == (g is None) for p, g in pairs):
        kept = [(p.grad, g) for p, g in pairs if p.grad is not None and g is not None]
        torch._foreach_copy_([old for old, _ in kept], [new for _, new in kept])
    else:
        for parameter, gradient in pairs:
            parameter.grad = gradient
    if descent.average is not None:
        descent.average(parameters)


def _step(optimizer: torch.optim.Optimizer, descent: Descent) -> None:
    scaler = descent.scaler or UNSCALED
    scaler.step(optimizer)
    scaler.update()
