"""clip_weights_: the eager call and the torch.library op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wgan_fast.ops.dispatch import in_place


def clip_weights_(tensors: Sequence[Tensor], lo: float, hi: float, backend: str) -> None:
    in_place([tensors], [0], backend, lambda module, lists: module.clip_weights_(*lists, lo, hi))


@torch.library.custom_op("wgan_fast::clip_weights_", mutates_args={"tensors"})
def _clip_weights_op(tensors: Sequence[Tensor], lo: float, hi: float, backend: str) -> None:
    clip_weights_(tensors, lo, hi, backend)
