"""A critic step whose penalty is taken at the scored samples: one pass against what users write.

``wgan_fast`` takes scores and penalty from one forward pass (``return_scores=True``). "users' lines" do that with
autograd, "torch.compile" is their whole step, compiled, and "own forward pass" is ``gradient_penalty`` beside the
scores. A critic step is the loss and its ``backward()``. The allocator is as users have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wgan_fast
from benchmarks.common import DEVICE, Case, main, step_case
from benchmarks.critics import DCGAN_64, dcgan, perceptron
from benchmarks.schema import OURS


class Block(nn.Module):
    """R3GAN's: 1x1, grouped 3x3 and 1x1 convolutions without bias; biases added before the activations."""

    def __init__(self, channels: int, groups: int = 16) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.grouped = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=groups, bias=False)
        self.project = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.biases = nn.ParameterList(torch.zeros(2 * channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.expand(x) + self.biases[0].view(1, -1, 1, 1), 0.2)
        h = F.leaky_relu(self.grouped(h) + self.biases[1].view(1, -1, 1, 1), 0.2)
        y: Tensor = x + self.project(h)
        return y


class Residual(nn.Module):
    """Six such blocks, pooled after each second; with the standard deviation over the minibatch if asked."""

    def __init__(self, minibatch: bool = False, channels: int = 64) -> None:
        super().__init__()
        self.minibatch = minibatch
        self.enter = nn.Conv2d(3, channels, 1)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(6))
        self.score = nn.Linear(channels + minibatch, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for i, block in enumerate(self.blocks):
            h = block(h)
            h = F.avg_pool2d(h, 2) if i % 2 else h
        h = h.mean((2, 3))
        if self.minibatch:
            h = torch.cat([h, (h.var(0) + 1e-8).sqrt().mean().expand(len(h), 1)], 1)
        y: Tensor = self.score(h)
        return y


def r1_and_r2(real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> Tensor:
    """BCE with R1 and R2, as MimicKit has it."""
    loss: Tensor = F.softplus(-real[1]).mean() + F.softplus(fake[1]).mean() + real[0] + fake[0]
    return loss


def relativistic(real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> Tensor:
    loss: Tensor = F.softplus(fake[1] - real[1]).mean() + real[0] + fake[0]
    return loss


def hinge(real: tuple[Tensor, Tensor], fake: Tensor) -> Tensor:
    """The penalty at the real samples alone."""
    loss: Tensor = F.relu(1 - real[1]).mean() + F.relu(1 + fake).mean() + real[0]
    return loss


def alone(real: tuple[Tensor, Tensor]) -> Tensor:
    """No other batch: what one pass saves where nothing dilutes it."""
    loss: Tensor = F.softplus(-real[1]).mean() + real[0]
    return loss


@dataclass(frozen=True)
class Workload:
    """``loss`` of one value per batch: (penalty, scores) for the first ``penalties``, the scores for the others."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    loss: Callable[..., Tensor]
    penalties: int
    batches: int = 2


AMP = [250, 1024, 512]
"""The discriminator of MimicKit and skrl, for 250 numbers of motion."""
TOY = [2, 64, 64, 64]
"""Too small to be served: what the choice and the checks of a call cost."""
WORKLOADS = {
    "AMP perceptron, B=1024, R1 + R2": Workload(partial(perceptron, AMP), (1024, 250), r1_and_r2, 2),
    "AMP perceptron, B=1024, R1": Workload(partial(perceptron, AMP), (1024, 250), hinge, 1),
    "AMP perceptron, B=4096, R1 on one batch": Workload(partial(perceptron, AMP), (4096, 250), alone, 1, batches=1),
    "grouped residual, 32x32, B=16, relativistic": Workload(Residual, (16, 3, 32, 32), relativistic, 2),
    "DCGAN-64, B=32, hinge + R1": Workload(partial(dcgan, DCGAN_64), (32, 3, 64, 64), hinge, 1),
    "DCGAN-64 with InstanceNorm, B=16": Workload(partial(dcgan, DCGAN_64, norm=True), (16, 3, 64, 64), relativistic, 2),
    "AMP perceptron with SiLU, B=1024": Workload(partial(perceptron, AMP, nn.SiLU), (1024, 250), relativistic, 2),
    "toy perceptron 2-64-64-64-1, B=64, R1": Workload(partial(perceptron, TOY), (64, 2), hinge, 1),
    "with minibatch statistics, 32x32, B=16": Workload(
        partial(Residual, minibatch=True), (16, 3, 32, 32), relativistic, 2
    ),
}


Way = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
"""Half R1's penalty, and the scores at the same points."""


def users(critic: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    scores = critic(x)
    (gradients,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return 0.5 * gradients.square().flatten(1).sum(1).mean(), scores


def one_pass(critic: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    return wgan_fast.r1_penalty(critic, x, weight=0.5, return_scores=True)


def own_forward(critic: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    return wgan_fast.r1_penalty(critic, x, weight=0.5), critic(x)


def case(name: str, workload: Workload) -> Case:
    torch.manual_seed(0)
    critic = workload.make().to(DEVICE)
    batches = torch.randn((workload.batches, *workload.shape), device=DEVICE).unbind()
    penalised, scored = batches[: workload.penalties], batches[workload.penalties :]

    def loss(way: Way) -> Tensor:
        return workload.loss(*(way(critic, x) for x in penalised), *(critic(x) for x in scored))

    ways = {OURS: one_pass, f"{OURS}, own forward pass": own_forward, "users' lines": users}
    losses = {name: partial(loss, way) for name, way in ways.items()}
    op, compiled = "critic step, penalty at the scored samples", "torch.compile of the users' step"
    return step_case(op, name, critic, losses, "users' lines", compiled_name=compiled)


def cases() -> Iterator[Case]:
    for name, workload in WORKLOADS.items():
        yield case(name, workload)


if __name__ == "__main__":
    main("score_and_gradient", cases, keep_memory=False)
