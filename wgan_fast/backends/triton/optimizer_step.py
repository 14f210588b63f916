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
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from wgan_fast.backends.triton.adam_kernel import adam_kernel, count_kernel
from wgan_fast.backends.triton.launching import is_capturing, launch
from wgan_fast.backends.triton.multi_tensor import address_table, all_lie_alike, chunk_table, lie_alike, piece_of
from wgan_fast.backends.triton.rmsprop_kernel import rmsprop_kernel
from wgan_fast.backends.triton.rules import DTYPES, WIDE
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

# Three to five streams of memory, eight elements of each per thread: no spills, 1350 programs for a DCGAN critic.
BLOCK = 2048
WARPS = 8
COUNT_BLOCK = 128

_HOST = torch.device("cpu")

Lists = list[Sequence[Tensor]]


class Kind(NamedTuple):
    """What parameters of one launch have in common."""

    device: torch.device
    dtype: torch.dtype
    counted_there: bool


class Group(NamedTuple):
    """Parameters of one launch: the lists that are used, and the step counts."""

    kind: Kind
    lists: Lists
    steps: Sequence[Tensor]

    def only(self, members: Sequence[bool]) -> Group:
        lists: Lists = [list(itertools.compress(column, members)) for column in self.lists]
        return Group(self.kind, lists, list(itertools.compress(self.steps, members)))


def on_device(tensor: Tensor) -> bool:
    """True where a number is read by the kernel, not by the host."""
    return not tensor.is_cpu


def _block(dtype: torch.dtype) -> int:
    """Elements of a full program. In fp64 two per thread: with four, the subroutine of its divisions needs a stack."""
    return BLOCK // 4 if dtype == torch.float64 else BLOCK


def _groups(lists: Lists, steps: Sequence[Tensor]) -> tuple[list[Group], list[int]]:
    """The parameters by kind, and the positions of those left out."""
    rest: list[int] = []
    if all_lie_alike(lists) and _counted_alike(steps, lists[0][0].get_device()):
        first = lists[0][0]
        groups = [Group(Kind(first.device, first.dtype, on_device(steps[0])), lists, steps)]
    else:
        kinds = [_kind(tensors, step) for step, *tensors in zip(steps, *lists, strict=True)]
        rest = [i for i, kind in enumerate(kinds) if kind is None]
        groups = [
            Group(kind, lists, steps).only([other == kind for other in kinds])
            for kind in dict.fromkeys(kinds)
            if kind is not None
        ]
    if any(not group.kind.counted_there and is_capturing(group.kind.device) for group in groups):
        raise RuntimeError(
            "a CUDA graph is being captured and the optimizer counts its steps on the host, where a replay does "
            "not: make it with capturable=True"
        )
    return groups, rest


def _counted_alike(steps: Sequence[Tensor], device: int) -> bool:
    """True in the usual case: all counts in fp32, on the host or all on this device."""
    places = set(map(Tensor.get_device, steps))
    return len(places) == 1 and places <= {device, -1} and {step.dtype for step in steps} == {torch.float32}


def _kind(tensors: Sequence[Tensor], step: Tensor) -> Kind | None:
    """None where a kernel cannot take the parameter."""
    param = tensors[0]
    if step.dtype != torch.float32 or step.device not in (param.device, _HOST) or not lie_alike(tensors):
        return None
    return Kind(param.device, param.dtype, on_device(step))


def _host_counts(steps: Sequence[Tensor]) -> list[ctypes.c_float]:
    """Counts on the host, where they lie: torch takes longer to add 1 to nine tensors than all else in a step."""
    return [ctypes.c_float.from_address(address) for address in map(Tensor.data_ptr, steps)]


def _advance(counts: Sequence[ctypes.c_float]) -> None:
    for count in counts:
        count.value += 1


def _by_count(group: Group) -> list[tuple[Group, list[ctypes.c_float]]]:
    """The group, apart where counts on the host differ, with these counts: none where they are on the device."""
    if group.kind.counted_there:
        return [(group, [])]
    counts = _host_counts(group.steps)
    values = [count.value for count in counts]
    distinct = dict.fromkeys(values)
    if len(distinct) == 1:
        return [(group, counts)]
    masks = [[value == other for value in values] for other in distinct]
    return [(group.only(mask), list(itertools.compress(counts, mask))) for mask in masks]


def _learning_rate(lr: float | Tensor, device: torch.device) -> tuple[Tensor | None, float, Any]:
    """The learning rate as a tensor on the device or a number, and the type of the tensor."""
    if isinstance(lr, Tensor) and on_device(lr):
        return lr.to(device), 0.0, DTYPES[lr.dtype]
    return None, float(lr), None


def rmsprop_step_(lists: Sequence[Sequence[Tensor]], options: RMSpropOptions) -> list[int]:
    *columns, steps = lists
    groups, rest = _groups([column for column in columns if column], steps)
    lr, *numbers, maximize, lo, hi = options
    switches = (bool(columns[3]), bool(columns[4]), options.weight_decay != 0, bool(maximize))
    for (device, dtype, counted_there), used, steps in groups:
        block = _block(dtype)
        piece = piece_of(block, WARPS)
        table = chunk_table(used, block, piece)
        lr_tensor, rate, lr_dtype = _learning_rate(lr, device)
        constants = (lr_dtype, *switches, DTYPES[dtype], WIDE[dtype], piece, block)
        launch(rmsprop_kernel, len(table), device, WARPS, (table, lr_tensor, rate, *numbers, lo, hi), constants)
        if counted_there:
            torch._foreach_add_(list(steps), 1)
        else:
            _advance(_host_counts(steps))
    return rest


def adam_step_(lists: Sequence[Sequence[Tensor]], options: AdamOptions) -> list[int]:
    *columns, steps = lists
    groups, rest = _groups([column for column in columns if column], steps)
    lr, beta1, beta2, *numbers, decoupled, maximize, lo, hi = options
    switches = (bool(columns[4]), options.weight_decay != 0, bool(decoupled), bool(maximize))
    for part, counts in itertools.chain.from_iterable(map(_by_count, groups)):
        (device, dtype, counted_there), used, steps = part
        block = _block(dtype)
        piece = piece_of(block, WARPS)
        table = chunk_table(used, block, piece)
        corrections, correction, inverse_root = None, 1.0, 1.0
        if counted_there:
            corrections = _count_on_device(steps, beta1, beta2)
        else:
            count = counts[0].value + 1
            correction, inverse_root = 1 - beta1**count, 1 / math.sqrt(1 - beta2**count)
        lr_tensor, rate, lr_dtype = _learning_rate(lr, device)
        scalars = (rate, correction, inverse_root, beta1, beta2, *numbers, lo, hi)
        constants = (lr_dtype, counted_there, *switches, DTYPES[dtype], WIDE[dtype], piece, block)
        launch(adam_kernel, len(table), device, WARPS, (table, lr_tensor, corrections, *scalars), constants)
        _advance(counts)
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
