"""What the two players minimise, given the critic's scores: Wasserstein, and the standard GAN to compare with.

The scores are raw: unbounded for the Wasserstein loss, logits of "real" for the standard GAN.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

LossName = Literal["wgan", "gan", "gan-minimax", "relativistic"]


class CriticStep(NamedTuple):
    """The figures of a critic step, every entry a detached 0-dimensional tensor.

    ``loss`` is what the critic minimises, the penalty included. ``wasserstein_estimate`` is E[D(real)] - E[D(fake)],
    of logits under a loss of the standard GAN. ``gradient_norm`` is the mean norm of the critic's input gradients at
    the penalty's points, None for a constraint without such points; ``penalty`` is None for a constraint without a
    penalty.
    """

    loss: Tensor
    wasserstein_estimate: Tensor
    penalty: Tensor | None
    gradient_norm: Tensor | None


def critic_loss(name: LossName, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """The critic's loss, 0-dimensional, without the constraint's penalty.

    ``wgan``: E[D(fake)] - E[D(real)] (Arjovsky et al. 2017, equation 2). ``gan`` and ``gan-minimax``: the binary
    cross-entropy -E[log σ(D(real))] - E[log(1 - σ(D(fake)))] (Goodfellow et al. 2014, equation 1); for the best
    critic it is 2 log 2 - 2 JS. ``relativistic``: E[log(1 + exp(D(fake) - D(real)))] over pairs of a real and a
    generated sample (Jolicoeur-Martineau 2019; Huang et al. 2024, equation 2).
    """
    if name == "wgan":
        return fake_scores.mean() - real_scores.mean()
    if name == "relativistic":
        return F.softplus(fake_scores - real_scores).mean()
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def generator_loss(name: LossName, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
    """The generator's loss, 0-dimensional.

    ``wgan``: -E[D(fake)]. ``gan``: -E[log σ(D(fake))], the form that does not saturate (Goodfellow et al. 2014,
    section 3). ``gan-minimax``: E[log(1 - σ(D(fake)))], whose gradient vanishes as the critic wins (Arjovsky &
    Bottou 2017, theorem 2.4). ``relativistic``: E[log(1 + exp(D(real) - D(fake)))], which needs ``real_scores``.
    """
    if name == "relativistic":
        assert real_scores is not None
        return F.softplus(real_scores - fake_scores).mean()
    if name == "wgan":
        return -fake_scores.mean()
    if name == "gan":
        return F.softplus(-fake_scores).mean()
    return -F.softplus(fake_scores).mean()
