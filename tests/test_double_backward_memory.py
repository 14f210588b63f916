"""The exact shortcut takes no more memory than eager, and keeps none."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from critics import build
from test_double_backward import penalty
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from wgan_fast.double_backward import exact_shortcut


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors born in this context held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[Any, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


@pytest.mark.parametrize("name", ["mlp", "mlp_inplace", "dcgan", "dcgan_not_inplace", "resnet", "sequence", "pooled"])
def test_peak_memory_is_not_above_eagers(name: str) -> None:
    critic, x, args = build(name)
    x = x.repeat(8, *[1] * (x.dim() - 1))
    parameters = list(critic.parameters())
    peaks = []
    for context in (exact_shortcut(), nullcontext()):
        with PeakBytes() as memory:
            value = penalty(critic, x.clone().requires_grad_(), context, *args)
            torch.autograd.grad(value, parameters, allow_unused=True)
        peaks.append(memory.peak)
    assert 0 < peaks[0] <= peaks[1]


@pytest.mark.parametrize("hooked", [False, True])
def test_200_penalties_leave_nothing_behind(hooked: bool) -> None:
    """Without the garbage collector: no cycle holds a graph."""
    critic, x, _ = build("resnet")
    if hooked:
        critic.blocks.register_full_backward_hook(lambda module, into, out: None)
    parameters = list(critic.parameters())

    def step() -> None:
        value = penalty(critic, x.clone().requires_grad_(), exact_shortcut())
        torch.autograd.grad(value, parameters, allow_unused=True)

    def tensors() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    step()
    gc.collect()
    gc.disable()
    try:
        with PeakBytes() as memory:
            step()
            before, first, alive = tensors(), memory.peak, len(memory.alive)
            for _ in range(200 if not hooked else 20):
                step()
            assert tensors() <= before
            assert memory.peak <= first
            assert len(memory.alive) <= alive
    finally:
        gc.enable()
