"""Launchers of the C++ kernels for CPU tensors (``csrc/cpu``): addresses and sizes in, nothing copied.

The kernels see memory as flat blocks, so a launcher takes the tensors whose elements are dense and whose
companions (gradients, moments) lie the same way, and returns the positions of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wgan_fast.activation_table import ACTIVATION_CODES, three_numbers
from wgan_fast.dtypes import CODES, codes_of
from wgan_fast.memory_layout import (
    address,
    contiguous_alike,
    dense_alike,
    divided,
    interpolation_operands,
    lie_alike,
    penalty_operands,
)
from wgan_fast.norm_arguments import Inputs, Results, as_given, norm_inputs, norm_results, norm_shape
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

try:
    from wgan_fast import _cpu
except ImportError as error:
    raise ImportError(
        "the C++ kernels were not built: install a C++ compiler and run 'pip install' again "
        f"(WGAN_FAST_CPU=1 makes a failed build an error) [{error}]"
    ) from error

DEVICE_TYPES = ("cpu",)


def _run(kernel: Callable[..., None], *arguments: Any) -> None:
    kernel(*arguments, torch.get_num_threads())


def clip_weights_(tensors: Sequence[Tensor], lo: float, hi: float) -> list[int]:
    rest: list[int] = []
    if not contiguous_alike([tensors]):
        (tensors,), rest = divided([tensors], [lie_alike([tensor]) for tensor in tensors])
    addresses, sizes = list(map(Tensor.data_ptr, tensors)), list(map(Tensor.numel, tensors))
    _run(_cpu.clip_weights, addresses, sizes, codes_of(tensors), lo, hi)
    return rest


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, out: Tensor | None = None) -> Tensor:
    *inputs, mixed = interpolation_operands(real, fake, alpha, out)
    addresses = map(Tensor.data_ptr, (*inputs, mixed))
    _run(_cpu.interpolate, *addresses, real.shape[0], real.numel(), CODES[real.dtype])
    return mixed if out is None or mixed is out else out.copy_(mixed)


def gradient_norm_penalty(
    gradients: Tensor, *, target: float, one_sided: bool, weight: float, reduction: str, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    gradients, slope, norms, value = penalty_operands(gradients, reduction, with_slope)
    addresses = (gradients.data_ptr(), address(slope), norms.data_ptr(), value.data_ptr())
    shape = (gradients.shape[0], gradients.numel(), CODES[gradients.dtype])
    _run(_cpu.gradient_norm_penalty, *addresses, *shape, target, one_sided, weight, reduction)
    return value, norms, slope


def activation_double_backward(
    saved: Tensor,
    grad_output: Tensor | None,
    grad_grad_input: Tensor,
    *,
    activation: str,
    options: Sequence[float],
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    saved, v, g = dense_alike(saved, grad_grad_input, grad_output if needed[1] else None)
    to_output, to_saved = (torch.empty_like(saved) if wanted else None for wanted in needed)
    addresses = map(address, (saved, g, v, to_output, to_saved))
    rule = (ACTIVATION_CODES[activation], *three_numbers(options))
    _run(_cpu.activation_double_backward, *addresses, saved.numel(), CODES[saved.dtype], *rule)
    return to_output, to_saved


def norm_double_backward(*tensors: Unpack[Inputs], num_groups: int, needed: tuple[bool, bool, bool]) -> Results:
    x, weight = tensors[0], tensors[3]
    inputs = norm_inputs(*tensors)
    results = norm_results(inputs, needed)
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in (*inputs, *results)]
    _run(_cpu.norm_double_backward, *addresses, *norm_shape(x), num_groups, CODES[x.dtype])
    return as_given(results, x, weight)


def rmsprop_step_(lists: Sequence[Sequence[Tensor]], options: RMSpropOptions) -> list[int]:
    return _step(_cpu.rmsprop_step, lists, 2, options)


def adam_step_(lists: Sequence[Sequence[Tensor]], options: AdamOptions) -> list[int]:
    return _step(_cpu.adam_step, lists, 1, options)


def _step(
    kernel: Callable[..., None],
    lists: Sequence[Sequence[Tensor]],
    optional: int,
    options: RMSpropOptions | AdamOptions,
) -> list[int]:
    """``optional``: how many of the lists before the last, the step counts, are empty in some variants."""
    *lists, steps = lists
    variant = map(bool, lists[-optional:])
    columns = [*lists[:-optional], *filter(None, lists[-optional:])]
    rest: list[int] = []
    counted = [step.is_cpu and step.dtype == torch.float32 for step in steps]
    if not (all(counted) and contiguous_alike(columns)):
        taken = [here and lie_alike(row) for here, *row in zip(counted, *columns, strict=True)]
        (steps, *columns), rest = divided([steps, *columns], taken)
    codes, sizes = codes_of(columns[0]), list(map(Tensor.numel, columns[0]))
    addresses = [list(map(Tensor.data_ptr, tensors)) for tensors in (steps, *columns)]
    _run(kernel, codes, [sizes, *addresses], *variant, options)
    return rest
