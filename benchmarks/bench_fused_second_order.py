"""Whole penalties of critics with norms and smooth activations, forward and backward, against the textbook's lines.

None of their matrix work multiplies zeros. The gain is that each norm and activation has one kernel for its double
backward where autograd runs a chain of operations, and that the first layer leaves out the gradient at the points,
which costs nothing with two inputs and 7 % with 784. The allocator is as users have it: the memory of the chain's
temporaries is a part of what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bench_gradient_penalty import Penalty, ours, textbook
from benchmarks.bench_score_and_gradient import Way, one_pass, users
from benchmarks.common import DEVICE, Case, main, step_case
from benchmarks.critics import perceptron
from benchmarks.schema import OURS


def convolutions(activation: Callable[[], nn.Module], norm: Callable[[int, int], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    size = 32
    for a, b in pairwise([3, 64, 128, 256]):
        size //= 2
        layers += [nn.Conv2d(a, b, 4, 2, 1), norm(b, size), activation()]
    return nn.Sequential(*layers, nn.Conv2d(256, 1, size))


def heads() -> nn.Module:
    """Convolutional heads with GroupNorm and SiLU, as diffusion distillation has them on features (LADD)."""
    layers: list[nn.Module] = [nn.Conv2d(64, 128, 3, padding=1), nn.GroupNorm(32, 128), nn.SiLU()]
    layers += [nn.Conv2d(128, 128, 3, padding=1), nn.GroupNorm(32, 128), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(128, 1, 1), nn.Flatten(), nn.Linear(16 * 16, 1))


WIDTHS = [512, 512, 512]
PERCEPTRON: dict[str, Callable[[], nn.Module]] = {
    "LayerNorm": partial(perceptron, [2, *WIDTHS], nn.ReLU, nn.LayerNorm),
    "SiLU": partial(perceptron, [2, *WIDTHS], nn.SiLU),
    "GELU": partial(perceptron, [2, *WIDTHS], nn.GELU),
}
CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "InstanceNorm": partial(convolutions, nn.LeakyReLU, lambda c, s: nn.InstanceNorm2d(c, affine=True)),
    "LayerNorm": partial(convolutions, nn.LeakyReLU, lambda c, s: nn.LayerNorm((c, s, s))),
    "SiLU": partial(convolutions, nn.SiLU, lambda c, s: nn.Identity()),
}


def shared_scores(way: Way, critic: nn.Module, x: Tensor) -> Tensor:
    """A loss of the scores and R1 at the same points."""
    penalty, scores = way(critic, x)
    return F.softplus(-scores).mean() + penalty


def whole(
    op: str, workload: str, make: Callable[[], nn.Module], shape: tuple[int, ...], steps: dict[str, Penalty]
) -> Case:
    torch.manual_seed(0)
    critic, x = make().to(DEVICE), torch.randn(shape, device=DEVICE)
    losses = {name: partial(value_of, critic, x) for name, value_of in steps.items()}
    return step_case(op, workload, critic, losses, "textbook")


def cases() -> Iterator[Case]:
    steps: dict[str, Penalty] = {OURS: ours, "textbook": textbook}
    for name, make in PERCEPTRON.items():
        yield whole("penalty", f"perceptron 3x512, {name}, B=256", make, (256, 2), steps)
    wide = partial(perceptron, [784, *WIDTHS], nn.ReLU, nn.LayerNorm)
    yield whole("penalty", "perceptron 784-3x512, LayerNorm, B=256", wide, (256, 784), steps)
    for name, make in CONVOLUTIONS.items():
        yield whole("penalty", f"convolutions 32x32, {name}, B=32", make, (32, 3, 32, 32), steps)
    shared: dict[str, Penalty] = {OURS: partial(shared_scores, one_pass), "textbook": partial(shared_scores, users)}
    workload = "heads 64x16x16, GroupNorm and SiLU, B=16"
    yield whole("loss and R1 on shared scores", workload, heads, (16, 64, 16, 16), shared)


if __name__ == "__main__":
    main("fused_second_order", cases, keep_memory=False)
