"""gradient_norm_penalty for long rows, in two launches: partial sums of squares, then norms, value and slope.

The partial sums are added in their order by every program that needs them; no atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wgan_fast.backends.triton.launching import kernel
from wgan_fast.backends.triton.penalty_rows_kernel import coefficient_of, penalty_of
from wgan_fast.backends.triton.rules import divide, scalar, square_root
from wgan_fast.backends.triton.tiles import elements_left, row_pointers


@kernel
def split_squares_kernel(
    gradients: tl.tensor,
    partials: tl.tensor,
    size: tl.int64,
    splits: tl.int64,
    span: tl.int64,
    VECTOR: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """partials[row, split]: the sum of squares of ``span`` elements of a row."""
    program = tl.program_id(0).to(tl.int64)
    row, split = program // splits, program % splits
    lanes = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), WIDE)
    for start in range(split * span, tl.minimum(split * span + span, size), BLOCK):
        inside = lanes < elements_left(start, size, BLOCK, VECTOR)
        source = row_pointers(gradients, row * size + start, VECTOR)
        wide = tl.load(source + lanes, mask=inside, other=0).to(WIDE)
        sums += wide * wide
    tl.store(partials + program, tl.sum(sums, axis=0))


@kernel
def split_slope_kernel(
    gradients: tl.tensor,
    slope: tl.tensor,
    norms: tl.tensor,
    values: tl.tensor,
    partials: tl.tensor,
    batch: tl.int64,
    size: tl.int64,
    splits: tl.int64,
    span: tl.int64,
    target: tl.float64,
    weight: tl.float64,
    factor: tl.float64,
    divisor: tl.float64,
    ONE_SIDED: tl.constexpr,
    SLOPE: tl.constexpr,
    REDUCE: tl.constexpr,
    VECTOR: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Norms, value and slope from the partial sums; LANES >= splits, the reduction's tile is ROWS x LANES."""
    program = tl.program_id(0).to(tl.int64)
    row, split = program, program * 0
    if SLOPE:
        row, split = program // splits, program % splits
    norm = _row_norms(partials, row + tl.arange(0, 1), row + 1, splits, LANES)
    if split == 0:
        tl.store(norms + row + tl.arange(0, 1), norm)
        if not REDUCE:
            tl.store(values + row + tl.arange(0, 1), penalty_of(norm, target, weight, ONE_SIDED, WIDE))
    if REDUCE and program == 0:
        sums = tl.zeros((ROWS,), WIDE)
        for start in range(0, batch, ROWS):
            rows = start + tl.arange(0, ROWS)
            each = _row_norms(partials, rows, batch, splits, LANES)
            sums += tl.where(rows < batch, penalty_of(each, target, weight, ONE_SIDED, WIDE), 0)
        tl.store(values, divide(tl.sum(sums, axis=0), scalar(divisor, WIDE)))
    if SLOPE:
        coefficient = coefficient_of(norm, target, factor, ONE_SIDED, WIDE)
        lanes = tl.arange(0, BLOCK)
        for start in range(split * span, tl.minimum(split * span + span, size), BLOCK):
            inside = lanes < elements_left(start, size, BLOCK, VECTOR)
            source = row_pointers(gradients, row * size + start, VECTOR)
            wide = tl.load(source + lanes, mask=inside, other=0).to(WIDE)
            sink = row_pointers(slope, row * size + start, VECTOR)
            tl.store(sink + lanes, (coefficient * wide).to(DTYPE), mask=inside)


@triton.jit
def _row_norms(
    partials: tl.tensor, rows: tl.tensor, batch: tl.tensor, splits: tl.tensor, LANES: tl.constexpr
) -> tl.tensor:
    lanes = tl.arange(0, LANES)[None, :]
    mask = (rows < batch)[:, None] & (lanes < splits)
    sums = tl.load(partials + rows[:, None] * splits + lanes, mask=mask, other=0)
    return square_root(tl.sum(sums, axis=1))
