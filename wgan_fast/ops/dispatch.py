"""Shared by the operations: which backend takes these tensors, and how in-place operations are spread over several."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from wgan_fast import reference
from wgan_fast.backends import choose
from wgan_fast.memory_layout import has_addresses

# To ask a tensor for its device as an object takes six times as long.
_is_cuda, _is_cpu = map(operator.attrgetter, ("is_cuda", "is_cpu"))


def serving(backend: str, *tensors: Tensor) -> Any:
    """The backend for these tensors: the one requested, but the reference where a kernel may not use addresses."""
    return choose(tensors[0].device.type, backend if has_addresses(*tensors) else "reference")


def laid_out_as(like: Tensor, result: Tensor | None) -> Tensor:
    """A result as fake implementations promise it, in the layout of ``empty_like``, whatever a backend makes of
    tensors that are not dense."""
    assert result is not None
    laid_out = torch.empty_like(like)
    return result if result.stride() == laid_out.stride() else laid_out.copy_(result)


def in_place(
    lists: Sequence[Sequence[Tensor]],
    written: Sequence[int],
    backend: str,
    launch: Callable[[Any, Sequence[Sequence[Tensor]]], list[int]],
) -> None:
    """Run an in-place operation over parallel lists: one launch per device, the reference for what is left over.

    ``launch(module, lists)`` calls a backend's launcher. ``written`` are the positions of the lists that the kernels
    change: raw writes do not bump version counters, so it is done here.
    """
    refuse_inference_tensors(lists[0])
    if all(map(_is_cuda, lists[0])):
        devices = ["cuda"]
    else:
        devices = ["cpu"] if all(map(_is_cpu, lists[0])) else sorted({tensor.device.type for tensor in lists[0]})
    # All choices before the first change: if a named backend cannot take one device, nothing may be modified.
    for device, module in [(device, choose(device, backend)) for device in devices]:
        chosen = lists
        if len(devices) > 1:
            here = [i for i, tensor in enumerate(lists[0]) if tensor.device.type == device]
            chosen = [[tensors[i] for i in here] if tensors else [] for tensors in lists]
        rest = launch(module, chosen)
        if module is reference:
            continue
        if rest:
            left_over = set(rest)
            launch(reference, [[tensors[i] for i in rest] if tensors else [] for tensors in chosen])
            chosen = [[t for i, t in enumerate(tensors) if i not in left_over] for tensors in chosen]
        for position in written:
            if chosen[position]:
                increment_version(chosen[position])


def refuse_inference_tensors(tensors: Sequence[Tensor]) -> None:
    """Raise where torch would: inference tensors must not change outside inference mode."""
    if not torch.is_inference_mode_enabled() and any(map(Tensor.is_inference, tensors)):
        raise RuntimeError(
            "an inference tensor cannot be changed in place outside of torch.inference_mode(): pass a clone of it"
        )
