"""optimizer_step: RMSprop and Adam, and the clamp, in one pass over memory; one launch a dtype.

Learning rate and step counts may live on the device, so that a CUDA graph can replay the step: the kernels
then read them there, and Adam's counts and bias corrections take one more, small launch. With counts on the
host, as the optimizers keep them unless ``capturable=True``, the corrections are numbers of the launch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from wgan_fast.backends.triton.adam_kernel import adam_kernel, count_kernel
from wgan_fast.backends.triton.launching import is_capturing, launch
from wgan_fast.backends.triton.multi_tensor import address_table, all_lie_alike, chunk_table, lie_alike
from wgan_fast.backends.triton.rmsprop_kernel import rmsprop_kernel
from wgan_fast.backends.triton.rules import DTYPES, WIDE, block_of

# Three to five streams of memory, eight elements of each a thread: no spills, 1350 programs for a DCGAN critic.
BLOCK = 2048
WARPS = 8
COUNT_BLOCK = 128

_HOST = torch.device("cpu")


class Kind(NamedTuple):
    """What parameters of one launch have in common."""

    device: torch.device
    dtype: torch.dtype
    counted_there: bool


Groups = dict[Kind, list[int]]


def on_device(tensor: Tensor) -> bool:
    """True where a number is read by the kernel, not by the host."""
    return tensor.device.type != "cpu"


def _groups(lists: Sequence[Sequence[Tensor]], steps: Sequence[Tensor]) -> tuple[Groups, list[int]]:
    """Positions that can share a launch, by kind, and the positions left out."""
    if all_lie_alike(lists) and len({(step.dtype, step.device) for step in steps}) == 1:
        kinds = [_kind([column[0] for column in lists], steps[0])] * len(steps)
    else:
        kinds = [_kind(tensors, step) for step, *tensors in zip(steps, *lists, strict=True)]
    groups: dict[Kind | None, list[int]] = {}
    for i, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(i)
    rest = groups.pop(None, [])
    taken = {kind: members for kind, members in groups.items() if kind is not None}
    if any(not kind.counted_there and is_capturing(kind.device) for kind in taken):
        raise RuntimeError(
            "a CUDA graph is being captured and the optimizer counts its steps on the host, where a replay does "
            "not: make it with capturable=True"
        )
    return taken, rest


def _kind(tensors: Sequence[Tensor], step: Tensor) -> Kind | None:
    """None where a kernel cannot take the parameter."""
    param = tensors[0]
    if step.dtype != torch.float32 or step.device not in (param.device, _HOST) or not lie_alike(tensors):
        return None
    return Kind(param.device, param.dtype, on_device(step))


def _by_count(groups: Groups, steps: Sequence[Tensor]) -> list[tuple[Kind, float | None, list[int]]]:
    """The groups, apart where counts on the host differ; with the count after this step, None on the device."""
    parts: dict[tuple[Kind, float | None], list[int]] = {}
    for kind, members in groups.items():
        for i in members:
            count = None if kind.counted_there else steps[i].item() + 1
            parts.setdefault((kind, count), []).append(i)
    return [(kind, count, members) for (kind, count), members in parts.items()]


def _learning_rate(lr: float | Tensor, device: torch.device) -> tuple[Tensor | None, float, Any]:
    """The learning rate as a tensor on the device or a number, and the type of the tensor."""
    if isinstance(lr, Tensor) and on_device(lr):
        return lr.to(device), 0.0, DTYPES[lr.dtype]
    return None, float(lr), None


def rmsprop_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    grad_avgs: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float | Tensor,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
    lo: float,
    hi: float,
) -> list[int]:
    lists = [column for column in (params, grads, square_avgs, grad_avgs, momentum_buffers) if column]
    groups, rest = _groups(lists, steps)
    for (device, dtype, _), members in groups.items():
        block = block_of(BLOCK, dtype)
        table = chunk_table([[column[i] for i in members] for column in lists], block)
        lr_tensor, rate, lr_dtype = _learning_rate(lr, device)
        numbers = (rate, alpha, eps, weight_decay, momentum, lo, hi)
        switches = (bool(grad_avgs), bool(momentum_buffers), weight_decay != 0, bool(maximize))
        constants = (lr_dtype, *switches, DTYPES[dtype], WIDE[dtype], block)
        launch(rmsprop_kernel, len(table), device, WARPS, (table, lr_tensor, *numbers), constants)
        torch._foreach_add_([steps[i] for i in members], 1)
    return rest


def adam_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
    lo: float,
    hi: float,
) -> list[int]:
    lists = [column for column in (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs) if column]
    groups, rest = _groups(lists, steps)
    for (device, dtype, _), count, members in _by_count(groups, steps):
        block = block_of(BLOCK, dtype)
        table = chunk_table([[column[i] for i in members] for column in lists], block)
        counts = [steps[i] for i in members]
        corrections, correction, inverse_root = None, 1.0, 1.0
        if count is None:
            corrections = _count_on_device(counts, beta1, beta2)
        else:
            correction, inverse_root = 1 - beta1**count, 1 / math.sqrt(1 - beta2**count)
            torch._foreach_add_(counts, 1)
        lr_tensor, rate, lr_dtype = _learning_rate(lr, device)
        numbers = (rate, correction, inverse_root, beta1, beta2, eps, weight_decay, lo, hi)
        decay = weight_decay != 0
        switches = (count is None, bool(max_exp_avg_sqs), decay, bool(decoupled_weight_decay), bool(maximize))
        constants = (lr_dtype, *switches, DTYPES[dtype], WIDE[dtype], block)
        launch(adam_kernel, len(table), device, WARPS, (table, lr_tensor, corrections, *numbers), constants)
    return rest


def _count_on_device(steps: Sequence[Tensor], beta1: float, beta2: float) -> Tensor:
    """Add 1 to every count, and return the bias corrections, (tensors, 2) in fp64."""
    table = address_table(steps)
    corrections = table.new_empty(len(steps), 2, dtype=torch.float64)
    logarithms = [math.log2(beta) if beta > 0 else -math.inf for beta in (beta1, beta2)]
    programs = triton.cdiv(len(steps), COUNT_BLOCK)
    arguments = (table, corrections, len(steps), *logarithms)
    launch(count_kernel, programs, table.device, 4, arguments, (COUNT_BLOCK,))
    return corrections
