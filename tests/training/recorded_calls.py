"""A capture for machines without CUDA: it records a step's operations with their arguments, and repeats them.

As in a CUDA graph, a replay reads and writes the tensors that the recorded call did, Python numbers are frozen, and
waiting for the device is an error. Only what torch dispatches is seen: use the reference backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wgan_fast.training.loop.graphs import WARM_UP_CALLS

Result = TypeVar("Result")


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the step reads a number from the device\nand here torch would say more")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


class RecordedCalls:
    """Counts its recordings and replays."""

    def __init__(self) -> None:
        self.recordings = self.replays = self.warm_ups = 0

    def __call__(self, step: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        for _ in range(WARM_UP_CALLS):
            self.warm_ups += 1
            step()
        self.recordings += 1
        with _Recorder() as recorder:
            result = step()

        @torch.no_grad()
        def replay() -> None:
            self.replays += 1
            for func, args, kwargs, recorded in recorder.calls:
                pairs = zip(tree_leaves(recorded), tree_leaves(func(*args, **kwargs)), strict=True)
                for old, new in pairs:
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return result, replay
