"""Measurements of a critic that several studies share, and training against a fixed generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wgan_fast.penalties import Critic, first_output, input_gradient
from wgan_fast.training.config import Config
from wgan_fast.training.loop.choices import make_constraint, make_optimizer
from wgan_fast.training.step.feedforward import written_out
from wgan_fast.training.step.steps import critic_step

SEARCH_ROUNDS = 12
SEARCH_SURVIVORS = 32
SEARCH_CHILDREN = 8


def input_gradient_norms(critic: nn.Module, points: Tensor) -> Tensor:
    """``(n,)`` norms of the critic's gradient at ``(n, *sample_shape)`` points."""
    with torch.no_grad():
        norms: Tensor = input_gradient(critic, points).flatten(1).norm(dim=1)
    return norms


def lipschitz_constant(critic: nn.Module, real: Tensor, fake: Tensor) -> float:
    """The largest gradient norm that a search finds, in Euclidean distance: a lower bound of the Lipschitz constant.

    It starts at the samples, at random points between them, and at twice their distance from the centre; then the
    best points get random children around them, closer in each round. The gradient of a piecewise-linear critic is
    constant on every piece, so its norm cannot be climbed by gradient ascent: the search is random.
    """
    random = torch.Generator().manual_seed(0)
    count = min(len(real), len(fake))
    alpha = torch.rand(count, *[1] * (real.dim() - 1), generator=random)
    centre, reach = real.mean(dim=0), (real - real.mean(dim=0)).flatten(1).norm(dim=1).mean()
    between = torch.lerp(fake[:count], real[:count], alpha)
    points = torch.cat([real, fake, between, centre + 2 * (real - centre)])
    norms = input_gradient_norms(critic, points)
    for search in range(SEARCH_ROUNDS):
        norms, best = norms.topk(min(SEARCH_SURVIVORS, len(norms)))
        parents = points[best]
        step = reach * 0.5 ** (1 + search / 2) / parents[0].numel() ** 0.5
        family = parents.repeat(SEARCH_CHILDREN, *[1] * (parents.dim() - 1))
        children = family + step * torch.randn(family.shape, generator=random)
        points = torch.cat([parents, children])
        norms = torch.cat([norms, input_gradient_norms(critic, children)])
    return float(norms.max())


def dual_estimate(critic: Critic, real: Tensor, fake: Tensor) -> float:
    """E[D(real)] - E[D(fake)] over these samples."""
    with torch.no_grad():
        return float(first_output(critic(real)).mean() - first_output(critic(fake)).mean())


def train_against_fixed(
    critic: nn.Module,
    config: Config,
    draw: Callable[[], tuple[Tensor, Tensor]],
    steps: int,
    *,
    generator: nn.Module | None = None,
    look: Callable[[int], None] = lambda step: None,
) -> None:
    """Critic steps against a fixed generator.

    Args:
        config: of the constraint, the loss and the critic's optimizer.
        draw: real samples and noise; without a ``generator``, real and generated samples.
        look: called after every step with its number.
    """
    constraint = make_constraint(config)
    optimizer = make_optimizer(config, critic, constraint.clip_value)
    fixed, layers = generator or nn.Identity(), written_out(critic, constraint)
    for step in range(1, steps + 1):
        critic_step(critic, fixed, optimizer, constraint, *draw(), loss_name=config.loss, layers=layers)
        look(step)
