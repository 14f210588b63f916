"""Matrix work of the library's patterns, counted: ``python -m benchmarks.flops`` fails where one has grown.

The figures do not depend on the machine: floating-point operations of the products and convolutions that a critic step
dispatches, forward and backward. ``--update`` writes them to results/flops.json; without it each pattern is compared
with its committed figure, and one that costs 1 % more is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wgan_fast
from benchmarks.critics import Critics, perceptron
from benchmarks.schema import RESULTS
from wgan_fast.double_backward.flops import count_flops

PATH = RESULTS / "flops.json"
ALLOWED = 1.01

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def own_points(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    penalty = wgan_fast.gradient_penalty(critic, real, fake, weight=10)
    loss: Tensor = critic(fake).mean() - critic(real).mean() + penalty
    return loss


def r1(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    penalty, scores = wgan_fast.r1_penalty(critic, real, return_scores=True)
    return F.softplus(-scores).mean() + F.softplus(critic(fake)).mean() + penalty


def r1_r2(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    scores, gradients = wgan_fast.score_and_gradient(critic, torch.cat([real, fake]))
    on_real, on_fake = scores.chunk(2)
    return F.softplus(on_fake - on_real).mean() + wgan_fast.gradient_norm_penalty(gradients, target=0.0)


WIDTHS = [256, 256, 256, 256]


def convolutions(*between: Callable[[], nn.Module]) -> nn.Sequential:
    first = [nn.Conv2d(3, 32, 4, 2, 1), *(make() for make in between)]
    return nn.Sequential(*first, nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(8192, 1))


CRITICS: Critics = {
    "perceptron": (partial(perceptron, WIDTHS), (128, 256)),
    "perceptron, LayerNorm": (partial(perceptron, WIDTHS, nn.ReLU, nn.LayerNorm), (128, 256)),
    "perceptron, SiLU": (partial(perceptron, WIDTHS, nn.SiLU), (128, 256)),
    "convolutions": (lambda: convolutions(nn.LeakyReLU), (4, 3, 32, 32)),
    "convolutions, InstanceNorm": (lambda: convolutions(lambda: nn.InstanceNorm2d(32), nn.ReLU), (4, 3, 32, 32)),
}
LOSSES = {"WGAN-GP": own_points, "R1": r1, "R1 and R2": r1_r2}


def step(loss: Loss, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    critic, real, fake = make(), torch.randn(shape), torch.randn(shape)
    loss(critic, real, fake).backward()


def measured() -> dict[str, int]:
    """FLOPs per pattern."""
    return {
        f"{loss_name}, {critic_name}": count_flops(partial(step, loss, make, shape))
        for critic_name, (make, shape) in CRITICS.items()
        for loss_name, loss in LOSSES.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Count the matrix work of the library's patterns")
    parser.add_argument("--update", action="store_true", help=f"write {PATH.name} instead of comparing with it")
    update = parser.parse_args().update
    found = measured()
    if update:
        PATH.write_text(json.dumps(found, indent=1) + "\n")
    committed: dict[str, int] = json.loads(PATH.read_text())
    grown = [name for name, flops in found.items() if flops > ALLOWED * committed.get(name, 0)]
    for name, flops in found.items():
        print(f"{name:<40}{flops:>14,}{'   more than committed' if name in grown else ''}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
