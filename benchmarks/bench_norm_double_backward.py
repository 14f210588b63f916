"""The double backward of norms alone: one kernel against autograd's chain and a copy of the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import DEVICE, Case, double_backward_case, main
from wgan_fast.functional import norm_double_backward

NORMS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "LayerNorm": lambda x, weight, groups: F.layer_norm(x, x.shape[1:], weight),
    "GroupNorm": lambda x, weight, groups: F.group_norm(x, groups, weight),
    "InstanceNorm": lambda x, weight, groups: F.instance_norm(x, weight=weight),
}


def alone(name: str, shape: tuple[int, ...], groups: int, backend: str = "auto") -> Case:
    x, g, v = (torch.randn(shape, device=DEVICE) for _ in range(3))
    weight = torch.randn(shape[1], device=DEVICE)
    rows = x.reshape(shape[0], groups, -1)
    mean, rstd = rows.mean(2), (rows.var(2, unbiased=False) + 1e-5).rsqrt()
    leaves = [tensor.clone().requires_grad_() for tensor in (g, x, weight)]
    (dx,) = torch.autograd.grad(NORMS[name](leaves[1], leaves[2], groups), leaves[1], leaves[0], create_graph=True)

    def ours() -> tuple[Tensor, ...]:
        to_output, to_x, to_weight = norm_double_backward(x, mean, rstd, weight, g, v, groups, backend=backend)
        assert to_weight is not None
        return to_output, to_x, to_weight

    workload = f"{name}, {'x'.join(map(str, shape))}"
    return double_backward_case("double backward of a norm", workload, ours, dx, leaves, v)


def cases() -> Iterator[Case]:
    yield alone("LayerNorm", (4096, 512), 1)
    yield alone("GroupNorm", (32, 128, 32, 32), 32)
    yield alone("InstanceNorm", (32, 64, 32, 32), 64)


if __name__ == "__main__":
    main("norm_double_backward", cases)
