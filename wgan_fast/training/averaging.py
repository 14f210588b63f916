"""The moving average of a generator's weights, from which samples are drawn (Karras et al. 2018, section 4)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """average <- decay * average + (1 - decay) * module, parameters and floating-point buffers alike.

    Args:
        module: what is averaged.
        decay: weight of the past, in [0, 1). It starts lower, at 1/10 and rising: the first weights are forgotten
            quickly. 0 keeps no copy: the average is the module itself.

    Attributes:
        module: the averaged copy, in evaluation mode; integer buffers (counts of batches) are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False) if decay else module
        mine = [*self.module.parameters(), *self.module.buffers()]
        theirs = [*module.parameters(), *module.buffers()]
        pairs = list(zip(mine, theirs, strict=True)) if decay else []
        self._floating = [(a, b) for a, b in pairs if a.is_floating_point()]
        self._counts = [(a, b) for a, b in pairs if not a.is_floating_point()]

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Take in the weights after ``iteration + 1`` iterations."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_([a for a, _ in self._floating], [b for _, b in self._floating], 1 - decay)
        for a, b in self._counts:
            a.copy_(b)
