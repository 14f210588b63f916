"""The moving average of a generator's weights, from which samples are drawn (Karras et al. 2018, section 4)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """average <- decay * average + (1 - decay) * module, parameters and floating-point buffers alike.

    Args:
        module: what is averaged.
        decay: weight of the past, in [0, 1). It starts lower, at 1/10 and rising: the first weights are forgotten
            quickly. 0 keeps no copy: the average is the module itself.
        share_on: keep the weight as a scalar on this device, so that a CUDA graph of `update` sees its changes.

    Attributes:
        module: the averaged copy, in evaluation mode; integer buffers (counts of batches) are copied.
    """

    def __init__(self, module: nn.Module, decay: float, *, share_on: torch.device | None = None) -> None:
        self.decay = decay
        self._share: float | Tensor = 1.0 if share_on is None else torch.zeros((), device=share_on)
        self.module = copy.deepcopy(module).eval().requires_grad_(False) if decay else module
        mine = [*self.module.parameters(), *self.module.buffers()]
        theirs = [*module.parameters(), *module.buffers()]
        pairs = list(zip(mine, theirs, strict=True)) if decay else []
        self._averages = [a for a, _ in pairs if a.is_floating_point()]
        self._sources = [b for a, b in pairs if a.is_floating_point()]
        self._counts = [(a, b) for a, b in pairs if not a.is_floating_point()]

    def set_schedule(self, iteration: int) -> None:
        """Choose the weight of the past for `update` after ``iteration + 1`` iterations."""
        if self.decay:
            share = 1 - min(self.decay, (1 + iteration) / (10 + iteration))
            if isinstance(self._share, Tensor):
                self._share.fill_(share)
            else:
                self._share = share

    @torch.no_grad()
    def update(self) -> None:
        """Add the module's current weights to the average."""
        if not self.decay:
            return
        if isinstance(self._share, Tensor):
            steps = torch._foreach_sub(self._sources, self._averages)
            torch._foreach_mul_(steps, self._share)
            torch._foreach_add_(self._averages, steps)
        else:
            torch._foreach_lerp_(self._averages, self._sources, self._share)
        for a, b in self._counts:
            a.copy_(b)
