"""The discriminator update of adversarial motion priors, before and after: the same numbers, in less time.

    python examples/amp_discriminator.py            # batch 4096, 50 updates of each
    python examples/amp_discriminator.py --smoke    # batch 256, 3 updates

Adversarial motion priors (Peng et al. 2021) score transitions of a simulated character and of recorded motion with a
ReLU perceptron, and penalise the gradient at the recorded ones. skrl (IsaacLab) and MimicKit take it from the logits
that carry the loss; ``before`` has their lines. ``after`` takes scores and gradient from one pass, which needs four
products per layer instead of six. The transitions here are random: the time does not depend on what they mean.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wgan_fast

FEATURES, PENALTY_SCALE, LOGIT_SCALE = 250, 5.0, 0.05

Loss = Callable[[nn.Sequential, Tensor, Tensor], Tensor]


def discriminator() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 1))


def classification(agent_logits: Tensor, motion_logits: Tensor) -> Tensor:
    return 0.5 * (
        F.binary_cross_entropy_with_logits(agent_logits, torch.zeros_like(agent_logits))
        + F.binary_cross_entropy_with_logits(motion_logits, torch.ones_like(motion_logits))
    )


def logit_regularisation(model: nn.Sequential) -> Tensor:
    head = model[-1].weight
    return LOGIT_SCALE * head.square().sum()


def before(model: nn.Sequential, agent: Tensor, motion: Tensor) -> Tensor:
    motion = motion.detach().requires_grad_(True)
    agent_logits, motion_logits = model(agent), model(motion)
    (gradient,) = torch.autograd.grad(
        motion_logits, motion, torch.ones_like(motion_logits), create_graph=True, retain_graph=True
    )
    penalty = PENALTY_SCALE * gradient.square().sum(dim=-1).mean()
    return classification(agent_logits, motion_logits) + logit_regularisation(model) + penalty


def after(model: nn.Sequential, agent: Tensor, motion: Tensor) -> Tensor:
    penalty, motion_logits = wgan_fast.r1_penalty(model, motion, weight=PENALTY_SCALE, return_scores=True)
    return classification(model(agent), motion_logits) + logit_regularisation(model) + penalty


def gradients(loss: Loss, model: nn.Sequential, agent: Tensor, motion: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss(model, agent, motion), list(model.parameters())))


def updated(loss: Loss, updates: list[tuple[Tensor, Tensor]]) -> tuple[nn.Sequential, float]:
    """The discriminator after these updates, and the median time of one in milliseconds."""
    model = copy.deepcopy(discriminator())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    times = []
    for agent, motion in updates:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(model, agent, motion).backward()
        optimizer.step()
        if agent.is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return model, statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="The discriminator update of adversarial motion priors")
    parser.add_argument("--smoke", action="store_true", help="a small batch, 3 updates")
    batch, count = (256, 3) if parser.parse_args().smoke else (4096, 50)
    model = discriminator()
    agent, motion = torch.randn(2, batch, FEATURES)
    pairs = zip(gradients(before, model, agent, motion), gradients(after, model, agent, motion), strict=True)
    worst = max(float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12)) for theirs, ours in pairs)
    print(f"relative difference of the gradients, the largest over parameters: {worst:.1e}")
    assert worst < 1e-4
    updates = [tuple(torch.randn(2, batch, FEATURES)) for _ in range(count)]
    (_, slow), (_, fast) = updated(before, updates), updated(after, updates)
    print(f"one update, batch {batch}: {slow:.1f} ms before, {fast:.1f} ms after, {slow / fast:.2f} times faster")


if __name__ == "__main__":
    main()
