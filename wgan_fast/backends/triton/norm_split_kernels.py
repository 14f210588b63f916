"""norm_double_backward for long rows, in two launches: partial sums, then the results.

The partial sums are added in their order by every program that needs them; no atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wgan_fast.backends.triton.launching import kernel
from wgan_fast.backends.triton.norm_rules import norm_terms
from wgan_fast.backends.triton.tiles import elements_left, row_pointers


@kernel
def norm_split_sums_kernel(
    x: tl.tensor,
    mean: tl.tensor,
    rstd: tl.tensor,
    weight: tl.tensor,
    g: tl.tensor,
    v: tl.tensor,
    sums: tl.tensor,
    groups: tl.int64,
    size: tl.int64,
    splits: tl.int64,
    span: tl.int64,
    CENTERED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WITH_G: tl.constexpr,
    VECTOR: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """sums[row, split]: of v, v x̂, ĝ, ĝ x̂ and v ĝ over ``span`` values of a row."""
    program = tl.program_id(0).to(tl.int64)
    row, split = program // splits, program % splits
    lanes = tl.arange(0, BLOCK)
    scale = tl.load(rstd + row)
    shift = scale * 0
    if CENTERED:
        shift = tl.load(mean + row)
    sum_v = tl.zeros((BLOCK,), WIDE)
    sum_vx = tl.zeros((BLOCK,), WIDE)
    sum_g = tl.zeros((BLOCK,), WIDE)
    sum_gx = tl.zeros((BLOCK,), WIDE)
    sum_vg = tl.zeros((BLOCK,), WIDE)
    for start in range(split * span, tl.minimum(split * span + span, size), BLOCK):
        inside = lanes < elements_left(start, size, BLOCK, VECTOR)
        at = row * size + start
        normalized = tl.load(row_pointers(x, at, VECTOR) + lanes, mask=inside, other=0).to(WIDE)
        normalized = (normalized - shift) * scale
        tangent = tl.load(row_pointers(v, at, VECTOR) + lanes, mask=inside, other=0).to(WIDE)
        weighted = tangent
        if WITH_G:
            weighted = tl.load(row_pointers(g, at, VECTOR) + lanes, mask=inside, other=0).to(WIDE)
        if WEIGHTED:
            of_value = row % groups * size + start
            weighted = weighted * tl.load(row_pointers(weight, of_value, VECTOR) + lanes, mask=inside, other=0)
        sum_v += tangent
        sum_vx += tangent * normalized
        sum_g += weighted
        sum_gx += weighted * normalized
        sum_vg += tangent * weighted
    tl.store(sums + program * 5, tl.sum(sum_v, axis=0))
    tl.store(sums + program * 5 + 1, tl.sum(sum_vx, axis=0))
    tl.store(sums + program * 5 + 2, tl.sum(sum_g, axis=0))
    tl.store(sums + program * 5 + 3, tl.sum(sum_gx, axis=0))
    tl.store(sums + program * 5 + 4, tl.sum(sum_vg, axis=0))


@kernel
def norm_split_results_kernel(
    x: tl.tensor,
    mean: tl.tensor,
    rstd: tl.tensor,
    weight: tl.tensor,
    g: tl.tensor,
    v: tl.tensor,
    to_output: tl.tensor,
    to_x: tl.tensor,
    partials: tl.tensor,
    sums: tl.tensor,
    batch: tl.int64,
    groups: tl.int64,
    size: tl.int64,
    per_chunk: tl.int64,
    splits: tl.int64,
    CENTERED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    TO_OUTPUT: tl.constexpr,
    TO_X: tl.constexpr,
    TO_WEIGHT: tl.constexpr,
    VECTOR: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A program has one block of columns, of one group, of the samples of a chunk; LANES >= splits."""
    program = tl.program_id(0).to(tl.int64)
    blocks = (size + BLOCK - 1) // BLOCK
    start = program % blocks * BLOCK
    chunk, group = program // blocks // groups, program // blocks % groups
    lanes = tl.arange(0, BLOCK)
    inside = lanes < elements_left(start, size, BLOCK, VECTOR)
    count = size.to(WIDE)
    total = tl.zeros((BLOCK,), WIDE)
    if WEIGHTED:
        w = tl.load(row_pointers(weight, group * size + start, VECTOR) + lanes, mask=inside, other=0)
    for sample in range(chunk * per_chunk, tl.minimum(batch, (chunk + 1) * per_chunk)):
        row = sample * groups + group
        at = row * size + start
        scale = tl.load(rstd + row)
        shift = scale * 0
        if CENTERED:
            shift = tl.load(mean + row)
        normalized = tl.load(row_pointers(x, at, VECTOR) + lanes, mask=inside, other=0).to(WIDE)
        normalized = (normalized - shift) * scale
        tangent = tl.load(row_pointers(v, at, VECTOR) + lanes, mask=inside, other=0).to(WIDE)
        signal = tangent
        if TO_X or TO_WEIGHT:
            signal = tl.load(row_pointers(g, at, VECTOR) + lanes, mask=inside, other=0).to(WIDE)
        weighted = signal
        if WEIGHTED:
            weighted = signal * w
        c, d, m1, of_v, of_g, of_x = norm_terms(
            _row_sum(sums, row, 0, splits, LANES),
            _row_sum(sums, row, 1, splits, LANES),
            _row_sum(sums, row, 2, splits, LANES),
            _row_sum(sums, row, 3, splits, LANES),
            _row_sum(sums, row, 4, splits, LANES),
            scale,
            count,
            CENTERED,
        )
        k = scale * (tangent - c - normalized * d)
        if TO_WEIGHT:
            total += signal * k
        if TO_OUTPUT:
            result = k
            if WEIGHTED:
                result = w * k
            tl.store(row_pointers(to_output, at, VECTOR) + lanes, result.to(DTYPE), mask=inside)
        if TO_X:
            result = (tangent - c) * of_v + (weighted - m1) * of_g + normalized * of_x
            tl.store(row_pointers(to_x, at, VECTOR) + lanes, result.to(DTYPE), mask=inside)
    if TO_WEIGHT:
        sink = row_pointers(partials, (chunk * groups + group) * size + start, VECTOR)
        tl.store(sink + lanes, total, mask=inside)


@triton.jit
def _row_sum(sums: tl.tensor, row: tl.tensor, which: tl.constexpr, splits: tl.tensor, LANES: tl.constexpr) -> tl.tensor:
    lanes = tl.arange(0, LANES)
    return tl.sum(tl.load(sums + (row * splits + lanes) * 5 + which, mask=lanes < splits, other=0), axis=0)
