"""optimizer_step: RMSprop and Adam, and the clamp, in one pass over memory; one launch per dtype.

Learning rate and step counts may live on the device, so that a CUDA graph can replay the step: the kernels
then read them there, and Adam's counts and bias corrections take one more, small launch. With counts on the
host, as the optimizers keep them unless ``capturable=True``, the corrections are numbers of the launch.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from wgan_fast.backends.triton.adam_kernel import adam_kernel, count_kernel
from wgan_fast.backends.triton.launching import is_capturing, launch
from wgan_fast.backends.triton.multi_tensor import Lists, address_table, all_lie_alike, chunks_of, kind_of, split
from wgan_fast.backends.triton.rmsprop_kernel import rmsprop_kernel
from wgan_fast.backends.triton.rules import DTYPES
from wgan_fast.dtypes import dtype_of
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

# Three to five streams of memory, eight elements of each per thread: no spills, 1350 programs for a DCGAN critic.
BLOCK = 2048
WARPS = 8
COUNT_BLOCK = 128

_HOST = torch.device("cpu")


def on_device(tensor: Tensor) -> bool:
    """True where a number is read by the kernel, not by the host."""
    return not tensor.is_cpu


def _block(dtype: torch.dtype) -> int:
    """Elements of a full program. In fp64 two per thread: with four, the subroutine of its divisions needs a stack."""
    return BLOCK // 4 if dtype == torch.float64 else BLOCK


def _groups(lists: Lists) -> tuple[list[Lists], list[int]]:
    """The lists that are used, the step counts last, once per launch; the positions of parameters left out."""
    *columns, steps = lists
    columns = [column for column in columns if column]
    used = [*columns, steps]
    groups: list[Lists] = [used]
    rest: list[int] = []
    if not (all_lie_alike(columns) and _counted_alike(steps, columns[0][0].get_device())):
        groups, rest = split(used, [_kind(tensors, step) for *tensors, step in zip(*used, strict=True)])
    for group in groups:
        if is_capturing(group[0][0].device) and not on_device(group[-1][0]):
            raise RuntimeError(
                "a CUDA graph is being captured and the optimizer counts its steps on the host, where a replay does "
                "not: make it with capturable=True"
            )
    return groups, rest


def _counted_alike(steps: Sequence[Tensor], device: int) -> bool:
    """True in the usual case: all counts in fp32, on the host or all on this device."""
    places = set(map(Tensor.get_device, steps))
    return len(places) == 1 and places <= {device, -1} and set(map(dtype_of, steps)) == {torch.float32}


def _kind(tensors: Sequence[Tensor], step: Tensor) -> tuple[object, ...] | None:
    """What the parameters of one launch have in common; None where a kernel cannot take this one."""
    kind = kind_of(tensors)
    if kind is None or step.dtype != torch.float32 or step.device not in (tensors[0].device, _HOST):
        return None
    return (*kind, on_device(step))


def _host_counts(steps: Sequence[Tensor]) -> list[ctypes.c_float]:
    """Counts on the host, where they lie: torch takes longer to add 1 to nine tensors than all else in a step."""
    return list(map(ctypes.c_float.from_address, map(Tensor.data_ptr, steps)))


def _advance(counts: Sequence[ctypes.c_float]) -> None:
    for count in counts:
        count.value += 1


def _by_count(group: Lists) -> list[tuple[Lists, list[ctypes.c_float]]]:
    """The group, apart where counts on the host differ, with these counts: none where they are on the device."""
    if on_device(group[-1][0]):
        return [(group, [])]
    counts = _host_counts(group[-1])
    values = [count.value for count in counts]
    if values.count(values[0]) == len(values):
        return [(group, counts)]
    return [(part, _host_counts(part[-1])) for part in split(group, values)[0]]


def _learning_rate(lr: float | Tensor, device: torch.device) -> tuple[Tensor | None, float, Any]:
    """The learning rate as a tensor on the device or a number, and the type of the tensor."""
    if isinstance(lr, Tensor) and on_device(lr):
        return lr.to(device), 0.0, DTYPES[lr.dtype]
    return None, float(lr), None


def rmsprop_step_(lists: Lists, options: RMSpropOptions) -> list[int]:
    groups, rest = _groups(lists)
    lr, *numbers, maximize, lo, hi = options
    switches = (bool(lists[3]), bool(lists[4]), options.weight_decay != 0, bool(maximize))
    for *columns, steps in groups:
        table, constants = chunks_of(columns, _block(columns[0][0].dtype), WARPS)
        lr_tensor, rate, lr_dtype = _learning_rate(lr, table.device)
        arguments = (table, lr_tensor, rate, *numbers, lo, hi)
        launch(rmsprop_kernel, table.shape[0], WARPS, arguments, (lr_dtype, *switches, *constants))
        if on_device(steps[0]):
            torch._foreach_add_(list(steps), 1)
        else:
            _advance(_host_counts(steps))
    return rest


def adam_step_(lists: Lists, options: AdamOptions) -> list[int]:
    groups, rest = _groups(lists)
    lr, beta1, beta2, *numbers, decoupled, maximize, lo, hi = options
    switches = (bool(lists[4]), options.weight_decay != 0, bool(decoupled), bool(maximize))
    for (*columns, steps), counts in itertools.chain.from_iterable(map(_by_count, groups)):
        table, constants = chunks_of(columns, _block(columns[0][0].dtype), WARPS)
        if counts:
            count = counts[0].value + 1
            corrections, correction, inverse_root = None, 1 - beta1**count, 1 / math.sqrt(1 - beta2**count)
        else:
            corrections, correction, inverse_root = _count_on_device(steps, beta1, beta2), 1.0, 1.0
        lr_tensor, rate, lr_dtype = _learning_rate(lr, table.device)
        arguments = (table, lr_tensor, corrections, rate, correction, inverse_root, beta1, beta2, *numbers, lo, hi)
        constants = (lr_dtype, not counts, *switches, *constants)
        launch(adam_kernel, table.shape[0], WARPS, arguments, constants)
        _advance(counts)
    return rest


def _count_on_device(steps: Sequence[Tensor], beta1: float, beta2: float) -> Tensor:
    """Add 1 to every count, and return the bias corrections, (tensors, 2) in fp64."""
    table = address_table(steps)
    corrections = table.new_empty(len(steps), 2, dtype=torch.float64)
    logarithms = [math.log2(beta) if beta > 0 else -math.inf for beta in (beta1, beta2)]
    arguments = (table, corrections, len(steps), *logarithms)
    launch(count_kernel, triton.cdiv(len(steps), COUNT_BLOCK), 4, arguments, (COUNT_BLOCK,))
    return corrections
