"""The double backward of smooth activations alone: one kernel against autograd's chain and a copy of the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import DEVICE, Case, Provider, compiled, double_backward_case, main
from wgan_fast.functional import activation_double_backward

SIZE = 1 << 22

ALONE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "SiLU": (F.silu, "silu"),
    "GELU": (F.gelu, "gelu"),
    "GELU (tanh)": (partial(F.gelu, approximate="tanh"), "gelu_tanh"),
    "Mish": (F.mish, "mish"),
    "logsigmoid": (F.logsigmoid, "logsigmoid"),
}


def alone(
    name: str, function: Callable[[Tensor], Tensor], activation: str, size: int = SIZE, backend: str = "auto"
) -> Case:
    x, g, v = (torch.randn(size, device=DEVICE) for _ in range(3))
    leaves = [tensor.clone().requires_grad_() for tensor in (g, x)]
    (dx,) = torch.autograd.grad(function(leaves[1]), leaves[1], leaves[0], create_graph=True)

    def fused() -> tuple[Tensor, ...]:
        return activation_double_backward(x, g, v, activation, backend=backend)

    others = {"torch.compile of the formula": _compiled_formula(x, g, v, activation)}
    workload = f"{name}, {size >> 20} M values"
    return double_backward_case("double backward of an activation", workload, fused, dx, leaves, v, others)


def _compiled_formula(x: Tensor, g: Tensor, v: Tensor, activation: str) -> Provider:
    """The reference as Inductor fuses it: what the chain could be without a kernel of our own."""
    run = compiled(partial(activation_double_backward, activation=activation, backend="reference"))
    leaf = x.clone().requires_grad_()  # recorded: the formula itself is traced, and not an op

    def timed() -> tuple[Tensor, ...]:
        first, second = run(leaf, g, v)
        return first.detach(), second.detach()

    return Provider(timed=timed, result=timed)


def cases() -> Iterator[Case]:
    for name, (function, activation) in ALONE.items():
        torch._dynamo.reset()
        yield alone(name, function, activation)


if __name__ == "__main__":
    main("activation_double_backward", cases)
