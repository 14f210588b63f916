"""gradient_norm_penalty for rows that fit in registers: norm, value and slope from one read."""

from __future__ import annotations

import triton
import triton.language as tl

from wgan_fast.backends.triton.launching import kernel
from wgan_fast.backends.triton.rules import divide, scalar, square_root
from wgan_fast.backends.triton.tiles import elements_left, row_pointers


@triton.jit
def penalty_of(
    norm: tl.tensor, target: tl.tensor, weight: tl.tensor, ONE_SIDED: tl.constexpr, WIDE: tl.constexpr
) -> tl.tensor:
    excess = excess_of(norm, target, ONE_SIDED, WIDE)
    return scalar(weight, WIDE) * excess * excess


@triton.jit
def excess_of(norm: tl.tensor, target: tl.tensor, ONE_SIDED: tl.constexpr, WIDE: tl.constexpr) -> tl.tensor:
    excess = norm - scalar(target, WIDE)
    if ONE_SIDED:
        excess = tl.where(excess < 0, 0, excess)
    return excess


@triton.jit
def coefficient_of(
    norm: tl.tensor, target: tl.tensor, factor: tl.tensor, ONE_SIDED: tl.constexpr, WIDE: tl.constexpr
) -> tl.tensor:
    """slope / gradient, 0 where the norm is 0; factor = 2 weight scale."""
    zero = norm == 0
    excess = scalar(factor, WIDE) * excess_of(norm, target, ONE_SIDED, WIDE)
    return tl.where(zero, 0, divide(excess, tl.where(zero, 1, norm)))


@kernel
def rows_kernel(
    gradients: tl.tensor,
    slope: tl.tensor,
    norms: tl.tensor,
    values: tl.tensor,
    batch: tl.int64,
    size: tl.int64,
    target: tl.float64,
    weight: tl.float64,
    factor: tl.float64,
    divisor: tl.float64,
    ONE_SIDED: tl.constexpr,
    SLOPE: tl.constexpr,
    REDUCE: tl.constexpr,
    SINGLE: tl.constexpr,
    VECTOR: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """``values``: one per row; with REDUCE their sum, one per program; with a SINGLE program the result."""
    program = tl.program_id(0)
    rows = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)[None, :]
    live = rows < batch
    mask = live[:, None] & (columns < elements_left(0, size, COLUMNS, VECTOR))
    source = row_pointers(gradients, rows * size, VECTOR)[:, None]
    wide = tl.load(source + columns, mask=mask, other=0).to(WIDE)
    norm = square_root(tl.sum(wide * wide, axis=1))
    tl.store(norms + rows, norm, mask=live)
    per_sample = penalty_of(norm, target, weight, ONE_SIDED, WIDE)
    if REDUCE:
        total = tl.sum(tl.where(live, per_sample, 0), axis=0)
        if SINGLE:
            total = divide(total, scalar(divisor, WIDE))
        tl.store(values + program, total)
    else:
        tl.store(values + rows, per_sample, mask=live)
    if SLOPE:
        coefficient = coefficient_of(norm, target, factor, ONE_SIDED, WIDE)[:, None]
        sink = row_pointers(slope, rows * size, VECTOR)[:, None]
        tl.store(sink + columns, (coefficient * wide).to(DTYPE), mask=mask)


@kernel
def total_kernel(
    totals: tl.tensor,
    value: tl.tensor,
    count: tl.int64,
    divisor: tl.float64,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: the sum of all programs' totals, divided."""
    lanes = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), WIDE)
    for start in range(0, count, BLOCK):
        sums += tl.load(totals + start + lanes, mask=start + lanes < count, other=0)
    tl.store(value, divide(tl.sum(sums, axis=0), scalar(divisor, WIDE)))
