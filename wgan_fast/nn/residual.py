"""Residual connections that stay 1-Lipschitz."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LipschitzResidual(nn.Module):
    """(1 - t) shortcut(x) + t branch(x), t in (0, 1) learned: 1-Lipschitz if both paths are.

    A convex combination, where the plain sum has the Lipschitz constant 2. It preserves the norm of the gradient where
    both paths carry it the same way.

    Args:
        branch: the residual path.
        shortcut: the other one, by default the identity.
        share: t at the start.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, share: float = 0.5) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(f"share: expected a number between 0 and 1, got {share}")
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.logit = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(self.shortcut(x), self.branch(x), self.logit.sigmoid())
