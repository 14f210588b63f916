"""Critics that are too small: their operations take less time than the Python that would save some of them.

The nodes of the shortcut and of one pass are Python, those of autograd C++. Measured with two cores of an AMD EPYC
with AVX2, in multiplications of one forward pass of a perceptron: the shortcut breaks even at 6 M (2-128-128-128-1,
batch 256, has 9 M and gains 5 %; 2-64-64-64-1, batch 64, loses 23 %), one pass at 16 M. Below that the critic runs as
autograd has it, with the same results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wgan_fast.critic_modules import submodules

SHORTCUT = 1 << 23
ONE_PASS = 1 << 24
"""Multiplications of one forward pass from which each pays, on a CPU."""


def reached(critic: Any, points: list[Tensor], least: int) -> bool:
    """False for a perceptron on the CPU with fewer multiplications; critics of other kinds are not judged.

    A matrix is used once per row of the input. How often a convolution's weight is used is not known before.
    """
    if torch.compiler.is_compiling() or not isinstance(critic, nn.Module):
        return True
    if not all(x.is_cpu and x.dim() for x in points):
        return True
    rows = max((x.numel() // max(1, x.shape[-1]) for x in points), default=0)
    work = 0
    for module in submodules(critic):
        for parameter in module._parameters.values():
            if parameter is not None:
                work += rows * parameter.numel()
                if work >= least or parameter.dim() > 2:
                    return True
    return False
