"""Norms as ``norm_double_backward`` sees them, and autograd's own chain for the same."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5


class Norm(NamedTuple):
    """A norm of x of this shape; ``layer`` and ``rms`` over all but the first dimension, which has one weight each."""

    kind: str
    shape: tuple[int, ...]
    groups: int = 1

    def __call__(self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, x.shape[1:], weight, bias, EPS)
        if self.kind == "rms":
            return F.rms_norm(x, x.shape[1:], weight, EPS)
        if self.kind == "instance":
            return F.instance_norm(x, weight=weight, bias=bias, eps=EPS)
        return F.group_norm(x, self.groups, weight, bias, EPS)

    def statistics(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Mean and rstd, in fp32 (fp64 for fp64)."""
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        rows = x.to(wide).reshape(len(x), self.groups, x.shape[1:].numel() // self.groups)
        if self.kind == "rms":
            return None, (rows.square().mean(2) + EPS).rsqrt()
        return rows.mean(2), (rows.var(2, unbiased=False) + EPS).rsqrt()


# Rows around the widths of vectors and blocks; channels of few and of many positions; one group, all, some.
NORMS = [
    Norm("layer", (1, 2)),
    Norm("layer", (5, 7)),
    Norm("layer", (300, 16)),
    Norm("layer", (7, 129)),
    Norm("layer", (3, 2100)),
    Norm("rms", (5, 7)),
    Norm("rms", (130, 64)),
    Norm("group", (4, 6, 5), 3),
    Norm("group", (3, 12, 6, 6), 2),
    Norm("group", (2, 8, 4, 4), 1),
    Norm("group", (5, 4), 2),
    Norm("group", (2, 6, 3, 4, 5), 6),
    Norm("instance", (3, 4, 2, 2), 4),
    Norm("instance", (2, 5, 7, 9), 5),
    Norm("instance", (2, 3, 36, 36), 3),
]


def chain(norm: Norm, x: Tensor, weight: Tensor | None, g: Tensor, v: Tensor) -> list[Tensor]:
    """The gradients with respect to g, x and the weight where v arrives at the norm's backward, by autograd."""
    leaves = [t.detach().clone().requires_grad_() for t in (g, x, *(() if weight is None else (weight,)))]
    y = norm(leaves[1], leaves[2] if weight is not None else None)
    (dx,) = torch.autograd.grad(y, leaves[1], leaves[0], create_graph=True)
    return list(torch.autograd.grad(dx, leaves, v))
