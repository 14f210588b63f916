"""What the operations share: how an in-place one reaches its backends, and a typed ``Function.apply``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from wgan_fast import reference
from wgan_fast.backends import choose


def apply_function(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    return function.apply(*arguments)  # type: ignore[no-untyped-call]  # torch leaves it without types


def in_place(
    name: str, lists: Sequence[Sequence[Tensor]], written: Sequence[int], backend: str, **options: Any
) -> None:
    """Run an in-place operation over parallel lists: one launch a device, the reference for what is left over.

    ``written`` are the positions of the lists that the kernels change: raw writes do not bump version counters,
    so it is done here.
    """
    devices = ["cpu"]
    if not all(tensor.is_cpu for tensor in lists[0]):
        devices = sorted({tensor.device.type for tensor in lists[0]})
    # All choices before the first change: a named backend that cannot serve one device must leave the others alone.
    for device, module in [(device, choose(device, backend)) for device in devices]:
        chosen = lists
        if len(devices) > 1:
            here = [i for i, tensor in enumerate(lists[0]) if tensor.device.type == device]
            chosen = [[tensors[i] for i in here] if tensors else [] for tensors in lists]
        rest = getattr(module, name)(*chosen, **options)
        if module is reference:
            continue
        if rest:
            left_over = set(rest)
            getattr(reference, name)(*([t[i] for i in rest] if t else [] for t in chosen), **options)
            chosen = [[t for i, t in enumerate(tensors) if i not in left_over] for tensors in chosen]
        for position in written:
            if chosen[position]:
                increment_version(chosen[position])
