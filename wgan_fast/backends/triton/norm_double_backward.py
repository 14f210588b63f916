"""norm_double_backward: three tensors read, two written, each once where a row fits in registers.

A program has one group of channels of a chunk of samples, so that the gradients of its weights stay in registers;
one more launch adds those of the chunks. Rows above ROW_LIMIT are split over programs, which read them twice. No
atomics: the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from wgan_fast.backends.triton.launching import launch
from wgan_fast.backends.triton.norm_rows_kernel import norm_rows_kernel, norm_total_kernel
from wgan_fast.backends.triton.norm_split_kernels import norm_split_results_kernel, norm_split_sums_kernel
from wgan_fast.backends.triton.rules import DTYPES, WIDE, block_of
from wgan_fast.backends.triton.tiles import split_rows, vector_length
from wgan_fast.norm_arguments import (
    Inputs,
    Results,
    as_given,
    chunks_of,
    folded,
    norm_inputs,
    norm_results,
    norm_shape,
    repeated,
)

TILE = 2048  # elements of a tile of short rows: 8 for each of 256 threads, of each of four tensors
ROW_LIMIT = 4096  # elements: 8 for each of 512 threads, which have 128 registers
TOTAL_BLOCK = 1024  # sums of a program of the last launch
STEP = 2048  # elements of a step along a split row
SPLIT_PROGRAMS = 264  # two per multiprocessor of an H100; fixed, so that the bits do not depend on the device


def norm_double_backward(
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    grad_output: Tensor | None,
    grad_grad_input: Tensor,
    *,
    num_groups: int,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    inputs = norm_inputs(x, mean, rstd, weight, grad_output, grad_grad_input)
    results = norm_results(inputs, needed)
    batch, channels, positions = norm_shape(x)
    size = channels // num_groups * positions
    to_weight = results[2]
    if x.numel() == 0:
        return as_given((*results[:2], None if to_weight is None else to_weight.zero_()), x, weight)
    chunks, per_chunk = chunks_of(batch, num_groups, size, to_weight is not None, SPLIT_PROGRAMS)
    sample = channels * positions
    partials = None if to_weight is None else to_weight.new_empty(chunks * sample)
    start = _launch_split if size > block_of(ROW_LIMIT, x.dtype) else _launch_rows
    inputs = (*inputs[:3], repeated(inputs[3], positions), *inputs[4:])
    start(inputs, (*results[:2], partials), batch, num_groups, size, chunks, per_chunk)
    if to_weight is not None and partials is not None:
        values = to_weight.new_empty(sample)
        block = block_of(TOTAL_BLOCK, values.dtype)
        constants = (vector_length(sample, partials, values), WIDE[values.dtype], block)
        launch(norm_total_kernel, triton.cdiv(sample, block), 4, (partials, values, chunks, sample), constants)
        to_weight = folded(values, positions)
    return as_given((results[0], results[1], to_weight), x, weight)


def _described(inputs: Inputs, results: Results, size: int) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Addresses of the tensors (of x where one is absent), and what is constant for a launch."""
    x, mean, _, weight, g, v = inputs
    present = [t for t in (x, weight, g, v, *results) if t is not None]
    # A weight and its sums are of the wide type: rows that begin on 16 bytes in x's do so in theirs.
    constants = (mean is not None, weight is not None, *(t is not None for t in results))
    types = (vector_length(size, *present), DTYPES[x.dtype], WIDE[x.dtype])
    return tuple(x if t is None else t for t in (*inputs, *results)), (*constants, *types)


def _launch_rows(
    inputs: Inputs, results: Results, batch: int, groups: int, size: int, chunks: int, per_chunk: int
) -> None:
    tensors, constants = _described(inputs, results, size)
    x = inputs[0]
    columns = triton.next_power_of_2(size)
    rows = max(1, min(block_of(TILE, x.dtype) // columns, triton.next_power_of_2(per_chunk)))
    # 8 elements per thread, or 4 of fp64.
    warps = min(max(rows * columns // block_of(256, x.dtype), 1), 16)
    arguments = (*tensors, batch, groups, size, per_chunk)
    launch(norm_rows_kernel, chunks * groups, warps, arguments, (*constants, rows, columns))


def _launch_split(
    inputs: Inputs, results: Results, batch: int, groups: int, size: int, chunks: int, per_chunk: int
) -> None:
    tensors, constants = _described(inputs, results, size)
    x, step = inputs[0], block_of(STEP, inputs[0].dtype)
    rows = batch * groups
    splits, span = split_rows(rows, size, step, SPLIT_PROGRAMS)
    sums = torch.empty(rows * splits * 5, dtype=inputs[2].dtype, device=x.device)
    of_sums = (*constants[:2], inputs[4] is not None, *constants[5:], step)
    launch(norm_split_sums_kernel, rows * splits, 8, (*tensors[:6], sums, groups, size, splits, span), of_sums)
    arguments = (*tensors, sums, batch, groups, size, per_chunk, splits)
    programs = chunks * groups * triton.cdiv(size, step)
    of_results = (*constants, triton.next_power_of_2(splits), step)
    launch(norm_split_results_kernel, programs, 8, arguments, of_results)
