"""The double backward of smooth activations alone: one kernel against autograd's chain.

The yardstick beside the chain is a copy of the same bytes, three tensors read and two written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Case, Provider, compiled, copy_of, main
from benchmarks.schema import LIMIT, OURS
from wgan_fast.functional import activation_double_backward

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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

    def chain() -> tuple[Tensor, ...]:
        return torch.autograd.grad(dx, leaves, v, retain_graph=True)

    num_bytes = 5 * x.numel() * x.element_size()
    return Case(
        op="double backward of an activation",
        workload=f"{name}, {size >> 20} M values",
        bytes=num_bytes,
        providers={
            OURS: Provider(timed=fused, result=fused),
            "autograd's chain": Provider(timed=chain, result=chain),
            "torch.compile of the formula": _compiled_formula(x, g, v, activation),
            LIMIT: copy_of(num_bytes, DEVICE),
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


def cases() -> Iterator[Case]:
    for name, (function, activation) in ALONE.items():
        torch._dynamo.reset()
        yield alone(name, function, activation)


if __name__ == "__main__":
    main("activation_double_backward", cases)
