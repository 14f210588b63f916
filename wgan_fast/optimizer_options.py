"""The numbers of an optimizer's step, passed as one value from ``functional`` to the kernels.

``csrc/rules.h`` has the same structures, in the same order. ``lo`` and ``hi`` are the bounds of the clamp, -inf and
+inf for none.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class RMSpropOptions(NamedTuple):
    lr: float | Tensor
    alpha: float
    eps: float
    weight_decay: float
    momentum: float
    maximize: bool
    lo: float
    hi: float


class AdamOptions(NamedTuple):
    lr: float | Tensor
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled_weight_decay: bool
    maximize: bool
    lo: float
    hi: float
