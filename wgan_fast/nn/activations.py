"""Activations that preserve the norm of gradients: they permute their input."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupSort(nn.Module):
    """Sorts each group of ``group_size`` neighbouring features in ascending order.

    A permutation of its input at every point, hence 1-Lipschitz with a gradient of the same norm: with orthonormal
    layers it approximates every 1-Lipschitz function (Anil, Lucas & Grosse 2019, Sorting Out Lipschitz Function
    Approximation, section 4). Features are dimension 1 of ``(B, C, ...)``; where ``group_size`` does not divide C, the
    last C % group_size features pass as they are.
    """

    def __init__(self, group_size: int = 2) -> None:
        super().__init__()
        if group_size < 1:
            raise ValueError(f"group_size: expected at least 1, got {group_size}")
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        whole = x.shape[1] - x.shape[1] % self.group_size
        groups = x[:, :whole].reshape(len(x), -1, self.group_size, *x.shape[2:])
        return _joined(groups.sort(dim=2).values.flatten(1, 2), x, whole)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}"


class MaxMin(nn.Module):
    """``GroupSort(2)``, the larger value first: of each pair of neighbouring features the maximum and the minimum.

    Anil, Lucas & Grosse 2019, section 4.1; Chernodub & Nowicki 2017 (Norm-preserving Orthogonal Permutation Linear
    Unit). An odd last feature passes as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        whole = x.shape[1] - x.shape[1] % 2
        first, second = x[:, :whole].reshape(len(x), -1, 2, *x.shape[2:]).unbind(2)
        pairs = torch.stack([torch.maximum(first, second), torch.minimum(first, second)], dim=2)
        return _joined(pairs.flatten(1, 2), x, whole)


def _joined(sorted_features: Tensor, x: Tensor, whole: int) -> Tensor:
    return sorted_features if whole == x.shape[1] else torch.cat([sorted_features, x[:, whole:]], dim=1)
