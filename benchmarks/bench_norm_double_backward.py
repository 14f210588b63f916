"""The double backward of norms: one kernel against autograd's chain, alone and within whole penalties.

Alone, the yardstick beside the chain is a copy of the same bytes, three tensors read and two written. A whole penalty
is bound by its matrix work, of which nothing can be left out for norms: the gain there is the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wgan_fast
from benchmarks.common import Case, Provider, compiled, copy_of, main
from benchmarks.schema import LIMIT, OURS
from wgan_fast.double_backward import exact_shortcut
from wgan_fast.functional import norm_double_backward

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ---------------------------------------------------------------------------------------------------- the kernel


def alone(name: str, shape: tuple[int, ...], groups: int, forward: Callable[[Tensor, Tensor], Tensor]) -> Case:
    x, g, v = (torch.randn(shape, device=DEVICE) for _ in range(3))
    weight = torch.randn(shape[1], device=DEVICE)
    rows = x.reshape(shape[0], groups, -1)
    mean, rstd = rows.mean(2), (rows.var(2, unbiased=False) + 1e-5).rsqrt()
    leaves = [tensor.clone().requires_grad_() for tensor in (g, x, weight)]
    (dx,) = torch.autograd.grad(forward(leaves[1], leaves[2]), leaves[1], leaves[0], create_graph=True)

    def ours() -> tuple[Tensor, ...]:
        to_output, to_x, to_weight = norm_double_backward(x, mean, rstd, weight, g, v, groups)
        assert to_weight is not None
        return to_output, to_x, to_weight

    def chain() -> tuple[Tensor, ...]:
        return torch.autograd.grad(dx, leaves, v, retain_graph=True)

    size = 5 * x.numel() * x.element_size()
    return Case(
        op="double backward of a norm",
        workload=name,
        bytes=size,
        providers={
            OURS: Provider(timed=ours, result=ours),
            "autograd's chain": Provider(timed=chain, result=chain),
            LIMIT: copy_of(size, DEVICE),
        },
        rtol=1e-3,
        atol=1e-3,
        device=DEVICE,
    )


# ------------------------------------------------------------------------------------------------ whole penalties


def perceptron() -> nn.Module:
    layers: list[nn.Module] = []
    for width in (2, 512, 512):
        layers += [nn.Linear(width, 512), nn.LayerNorm(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 1))


def convolutions(norm: Callable[[int, int], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    size = 32
    for a, b in pairwise([3, 64, 128, 256]):
        size //= 2
        layers += [nn.Conv2d(a, b, 4, 2, 1), norm(b, size), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(256, 1, size))


def heads() -> nn.Module:
    """Convolutional heads with GroupNorm and SiLU, as diffusion distillation has them on features (LADD)."""
    layers: list[nn.Module] = [nn.Conv2d(64, 128, 3, padding=1), nn.GroupNorm(32, 128), nn.SiLU()]
    layers += [nn.Conv2d(128, 128, 3, padding=1), nn.GroupNorm(32, 128), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(128, 1, 1), nn.Flatten(), nn.Linear(16 * 16, 1))


CRITICS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron 3x512, LayerNorm, B=256": (perceptron, (256, 2)),
    "convolutions 32x32, InstanceNorm, B=32": (
        lambda: convolutions(lambda c, s: nn.InstanceNorm2d(c, affine=True)),
        (32, 3, 32, 32),
    ),
    "convolutions 32x32, LayerNorm, B=32": (
        lambda: convolutions(lambda c, s: nn.LayerNorm((c, s, s))),
        (32, 3, 32, 32),
    ),
}


def penalty(critic: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    scores = critic(x)
    (gradients,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
    value: Tensor = ((gradients.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
    return value


def ours(critic: nn.Module, x: Tensor) -> Tensor:
    value: Tensor = wgan_fast.gradient_penalty(critic, x, None, points="real")
    return value


def shared_scores(critic: nn.Module, x: Tensor, context: AbstractContextManager[object]) -> Tensor:
    """A loss of the scores and R1 at the same points."""
    x = x.detach().requires_grad_()
    with context:
        scores = critic(x)
    (gradients,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return F.softplus(-scores).mean() + 0.5 * gradients.square().flatten(1).sum(1).mean()


def whole(
    op: str,
    workload: str,
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    steps: dict[str, Callable[[nn.Module, Tensor], Tensor]],
) -> Case:
    torch.manual_seed(0)
    torch._dynamo.reset()
    critic, x = make().to(DEVICE), torch.randn(shape, device=DEVICE)
    parameters = list(critic.parameters())

    def step(value_of: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            value = value_of(critic, x)
            gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
            return value.detach(), *gradients

        return run

    runs = {name: step(value_of) for name, value_of in steps.items()}
    runs["torch.compile of the step"] = compiled(step(steps["textbook"]))
    return Case(
        op=op,
        workload=workload,
        bytes=0,  # bound by arithmetic: there is no copy to compare with
        providers={name: Provider(timed=run, result=run) for name, run in runs.items()},
        rtol=1e-2,
        atol=1e-4,
        device=DEVICE,
    )


def cases() -> Iterator[Case]:
    torch._dynamo.config.trace_autograd_ops = True  # the inner gradient inside the compiled step
    yield alone("LayerNorm, 4096x512", (4096, 512), 1, lambda x, weight: F.layer_norm(x, x.shape[1:], weight))
    yield alone("GroupNorm, 32x128x32x32", (32, 128, 32, 32), 32, lambda x, weight: F.group_norm(x, 32, weight))
    yield alone("InstanceNorm, 32x64x32x32", (32, 64, 32, 32), 64, lambda x, weight: F.instance_norm(x, weight=weight))
    for workload, (make, shape) in CRITICS.items():
        steps: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {OURS: ours, "textbook": penalty}
        yield whole("whole penalty, forward + backward", workload, make, shape, steps)
    shared: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
        OURS: lambda critic, x: shared_scores(critic, x, exact_shortcut()),
        "textbook": lambda critic, x: shared_scores(critic, x, nullcontext()),
    }
    workload = "heads 64x16x16, GroupNorm and SiLU, B=16"
    yield whole("loss and R1 on shared scores", workload, heads, (16, 64, 16, 16), shared)


if __name__ == "__main__":
    main("norm_double_backward", cases)
