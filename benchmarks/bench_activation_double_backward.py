"""The double backward of smooth activations: one kernel against autograd's chain, alone and within whole penalties.

Alone, the yardstick beside the chain is a copy of the same bytes, three tensors read and two written. A whole penalty
is bound by its matrix work, of which nothing can be left out for smooth activations: the gain there is the chain, and
the chain that autograd uses for silu's first backward where its graph is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bench_norm_double_backward import DEVICE, ours, penalty, whole
from benchmarks.common import Case, Provider, compiled, copy_of, main
from benchmarks.schema import LIMIT, OURS
from wgan_fast.functional import activation_double_backward

SIZE = 1 << 22

ALONE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "SiLU": (F.silu, "silu"),
    "GELU": (F.gelu, "gelu"),
    "GELU (tanh)": (partial(F.gelu, approximate="tanh"), "gelu_tanh"),
    "Mish": (F.mish, "mish"),
    "logsigmoid": (F.logsigmoid, "logsigmoid"),
}


def alone(name: str, function: Callable[[Tensor], Tensor], activation: str) -> Case:
    x, g, v = (torch.randn(SIZE, device=DEVICE) for _ in range(3))
    leaves = [tensor.clone().requires_grad_() for tensor in (g, x)]
    (dx,) = torch.autograd.grad(function(leaves[1]), leaves[1], leaves[0], create_graph=True)

    def fused() -> tuple[Tensor, ...]:
        return activation_double_backward(x, g, v, activation)

    def chain() -> tuple[Tensor, ...]:
        return torch.autograd.grad(dx, leaves, v, retain_graph=True)

    size = 5 * x.numel() * x.element_size()
    return Case(
        op="double backward of an activation",
        workload=f"{name}, 4 M values",
        bytes=size,
        providers={
            OURS: Provider(timed=fused, result=fused),
            "autograd's chain": Provider(timed=chain, result=chain),
            "torch.compile of the formula": _compiled_formula(x, g, v, activation),
            LIMIT: copy_of(size, DEVICE),
        },
        rtol=1e-3,
        atol=1e-5,
        device=DEVICE,
    )


def _compiled_formula(x: Tensor, g: Tensor, v: Tensor, activation: str) -> Provider:
    """The reference as Inductor fuses it: what the chain could be without a kernel of our own."""
    run = compiled(partial(activation_double_backward, activation=activation, backend="reference"))
    leaf = x.clone().requires_grad_()  # recorded: the formula itself is traced, and not an op

    def timed() -> tuple[Tensor, ...]:
        first, second = run(leaf, g, v)
        return first.detach(), second.detach()

    return Provider(timed=timed, result=timed)


def perceptron(activation: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for width in (2, 512, 512):
        layers += [nn.Linear(width, 512), activation()]
    return nn.Sequential(*layers, nn.Linear(512, 1))


def convolutions(activation: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in pairwise([3, 64, 128, 256]):
        layers += [nn.Conv2d(a, b, 4, 2, 1), activation()]
    return nn.Sequential(*layers, nn.Conv2d(256, 1, 4))


CRITICS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron 3x512, SiLU, B=256": (lambda: perceptron(nn.SiLU), (256, 2)),
    "perceptron 3x512, GELU, B=256": (lambda: perceptron(nn.GELU), (256, 2)),
    "convolutions 3-64-128-256 at 32x32, SiLU, B=32": (lambda: convolutions(nn.SiLU), (32, 3, 32, 32)),
}


def cases() -> Iterator[Case]:
    torch._dynamo.config.trace_autograd_ops = True  # the inner gradient inside the compiled step
    for name, (function, activation) in ALONE.items():
        torch._dynamo.reset()
        yield alone(name, function, activation)
    for workload, (make, shape) in CRITICS.items():
        steps: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {OURS: ours, "textbook": penalty}
        yield whole("whole penalty, forward + backward", workload, make, shape, steps)


if __name__ == "__main__":
    main("activation_double_backward", cases)
