"""clip_weights_: contract, validation, dispatch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from wgan_fast import ops
from wgan_fast.dtypes import DTYPE_NAMES, DTYPES, PLAIN_TYPES, dtype_of
from wgan_fast.memory_layout import has_addresses, has_overlap


def clip_weights_(
    parameters: nn.Module | Tensor | Iterable[Tensor],
    clip_value: float | tuple[float, float],
    *,
    backend: str = "auto",
) -> None:
    """Clamp all weights of a critic to [-clip_value, clip_value] in place, in one pass over memory.

    Equivalent to::

        with torch.no_grad():
            for p in critic.parameters():
                p.clamp_(-clip_value, clip_value)

    and bit-exact with it: NaN stays NaN, -0.0 stays -0.0. Buffers (running statistics) are not touched. The
    weight clipping of Arjovsky, Chintala & Bottou 2017 (Wasserstein GAN, algorithm 1, line 7); the paper clips
    *after* the optimizer's step, with clip_value = 0.01. ``wgan_fast.optim`` does both in the same pass.

    Args:
        parameters: a module, one tensor, or an iterable of tensors; fp32, fp64, bf16 or fp16, of any shape,
            layout and device, also mixed. A tensor that occurs twice is clamped once.
        clip_value: a positive number c for [-c, c], or a pair (lo, hi) with lo <= hi.
        backend: which backend to use.

    Raises:
        TypeError, ValueError: an argument is not as above; nothing has been modified.
    """
    lo, hi = clip_bounds(clip_value)
    tensors = _tensor_list(parameters)
    if torch.compiler.is_compiling():
        torch.ops.wgan_fast.clip_weights_(tensors, lo, hi, backend)
    elif tensors:
        # Of tensors that are not plain, backends leave each to the reference; under torch.func none has an address.
        ops.clip_weights_(tensors, lo, hi, backend if has_addresses() else "reference")


def clip_bounds(clip_value: float | tuple[float, float]) -> tuple[float, float]:
    """(lo, hi) of a ``clip_value``: a positive number, or a pair lo <= hi."""
    expected = "expected a positive number c, for [-c, c], or a pair (lo, hi) with lo <= hi"
    try:
        if isinstance(clip_value, Sequence):
            lo, hi = (float(bound) for bound in clip_value)
        else:
            hi = float(clip_value)
            lo = -hi
    except (TypeError, ValueError):
        raise TypeError(f"clip_value={clip_value!r}: {expected}") from None
    if not lo <= hi or (not isinstance(clip_value, Sequence) and hi <= 0):
        raise ValueError(f"clip_value={clip_value!r}: {expected}")
    return lo, hi


def _tensor_list(parameters: nn.Module | Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The tensors of a module or an iterable, each once, checked."""
    if isinstance(parameters, nn.Module):
        tensors: list[Tensor] = list(parameters.parameters())
    elif isinstance(parameters, Tensor):
        tensors = [parameters]
    else:
        try:
            tensors = list(parameters)
        except TypeError:
            raise TypeError(
                f"parameters: expected a module, a tensor or an iterable of tensors, got {type(parameters).__name__}"
            ) from None
    # Sets first, explanations only when something is wrong: a critic of a hundred tensors is checked in 20 us.
    # Not in compiled code, which the loops leave nothing in: Dynamo of torch 2.6 and 2.7 has no issuperset.
    compiling = torch.compiler.is_compiling()
    if compiling or not PLAIN_TYPES.issuperset(map(type, tensors)):
        _refuse_other_than_tensors(tensors)
    if compiling or not DTYPES.issuperset(map(dtype_of, tensors)):
        _refuse_other_dtypes(tensors)
    if compiling or not all(map(Tensor.is_contiguous, tensors)):
        _refuse_overlap(tensors)
    return tensors


def _refuse_other_than_tensors(tensors: Sequence[object]) -> None:
    for i, tensor in enumerate(tensors):
        if isinstance(tensor, Tensor):
            continue
        hint = " (named_parameters() yields pairs: pass parameters())" if isinstance(tensor, tuple) else ""
        raise TypeError(f"parameters[{i}]: expected a tensor, got {type(tensor).__name__}{hint}")


def _refuse_overlap(tensors: Sequence[Tensor]) -> None:
    for i, tensor in enumerate(tensors):
        if has_overlap(tensor):
            raise ValueError(
                f"parameters[{i}]: an expanded tensor (shape {tuple(tensor.shape)}, strides {tensor.stride()}) "
                "cannot be changed in place; expected a tensor whose elements have memory of their own"
            )


def _refuse_other_dtypes(tensors: Sequence[Tensor]) -> None:
    for i, tensor in enumerate(tensors):
        if tensor.dtype not in DTYPES:
            raise TypeError(f"parameters[{i}]: expected {DTYPE_NAMES}, got {tensor.dtype}")
