"""gradient_norm_penalty: value, norms and slope of the penalty, from one read where a row fits in a program.

    value_b = weight e_b²,   slope_b = 2 weight scale e_b g_b / n_b,   n_b = ‖g_b‖₂, e_b = n_b - target

Rows of up to ROW_LIMIT elements stay in registers: a program takes one row, or several short ones, and writes
the slope of what it has read; where there are several programs, a second, small launch adds up their values.
Longer rows are split over programs, in two launches. No atomics: the same input gives the same bits.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from wgan_fast.backends.triton.launching import launch
from wgan_fast.backends.triton.penalty_rows_kernel import rows_kernel, total_kernel
from wgan_fast.backends.triton.penalty_split_kernels import split_slope_kernel, split_squares_kernel
from wgan_fast.backends.triton.rules import DTYPES, WIDE, block_of
from wgan_fast.backends.triton.tiles import split_rows, vector_length
from wgan_fast.dtypes import accumulation_dtype
from wgan_fast.memory_layout import has_dense_samples

SHORT_TILE = 2048  # elements of a tile of several short rows
ROW_LIMIT = 16384  # elements, 64 kB in fp32: 32 registers for each of 512 threads
STEP = 4096  # elements of a step along a split row
SPLIT_PROGRAMS = 528  # four per multiprocessor of an H100; fixed, so that the bits do not depend on the device

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]  # gradients, slope (gradients if not needed), norms, value
Numbers = tuple[float, float, float, float]  # target, weight, 2 weight scale, divisor of the sum
Switches = tuple[bool, bool, bool]  # one-sided, slope wanted, one value instead of one per row


def gradient_norm_penalty(
    gradients: Tensor, *, target: float, one_sided: bool, weight: float, reduction: str, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    if not has_dense_samples(gradients):
        gradients = gradients.contiguous()
    batch = gradients.shape[0]
    reduce = reduction != "none"
    wide = accumulation_dtype(gradients.dtype)
    norms = torch.empty(batch, dtype=wide, device=gradients.device)
    value = torch.empty(() if reduce else (batch,), dtype=wide, device=gradients.device)
    slope = torch.empty_like(gradients) if with_slope else None
    if batch == 0:
        return value.fill_(math.nan if reduction == "mean" else 0), norms, slope
    size = gradients.numel() // batch
    divisor = float(batch) if reduction == "mean" else 1.0
    tensors = (gradients, gradients if slope is None else slope, norms, value)
    numbers = (target, weight, 2 * weight / divisor, divisor)
    switches = (bool(one_sided), with_slope, reduce)
    vector = vector_length(size, *tensors[:2])
    if size > ROW_LIMIT:
        _launch_split(tensors, batch, size, numbers, switches, vector)
    else:
        _launch_rows(tensors, batch, size, numbers, switches, vector)
    return value, norms, slope


def _launch_rows(tensors: Tensors, batch: int, size: int, numbers: Numbers, switches: Switches, vector: int) -> None:
    gradients, slope, norms, value = tensors
    columns = triton.next_power_of_2(max(size, 1))
    rows = max(1, block_of(SHORT_TILE, gradients.dtype) // columns)
    programs = triton.cdiv(batch, rows)
    values = value
    if switches[2] and programs > 1:
        values = torch.empty(programs, dtype=norms.dtype, device=norms.device)
    warps = 4 if columns <= 4096 else 8 if columns <= 8192 else 16
    dtypes = (DTYPES[gradients.dtype], WIDE[gradients.dtype])
    launch(
        rows_kernel,
        programs,
        warps,
        (gradients, slope, norms, values, batch, size, *numbers),
        (*switches, programs == 1, vector, *dtypes, rows, columns),
    )
    if values is not value:
        launch(total_kernel, 1, 4, (values, value, programs, numbers[3]), (dtypes[1], STEP))


def _launch_split(tensors: Tensors, batch: int, size: int, numbers: Numbers, switches: Switches, vector: int) -> None:
    gradients, _, norms, _ = tensors
    splits, span = split_rows(batch, size, STEP, SPLIT_PROGRAMS)
    partials = torch.empty(batch * splits, dtype=norms.dtype, device=norms.device)
    dtypes = (DTYPES[gradients.dtype], WIDE[gradients.dtype])
    arguments = (gradients, partials, size, splits, span)
    launch(split_squares_kernel, batch * splits, 8, arguments, (vector, *dtypes, STEP))
    lanes = triton.next_power_of_2(splits)
    with_slope = switches[1]
    launch(
        split_slope_kernel,
        batch * splits if with_slope else batch,
        8,
        (*tensors, partials, batch, size, splits, span, *numbers),
        (*switches, vector, *dtypes, max(1, STEP // lanes), lanes, STEP),
    )
