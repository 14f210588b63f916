"""norm_double_backward for rows that fit in registers: sums and results from one read."""

from __future__ import annotations

import triton.language as tl

from wgan_fast.backends.triton.launching import kernel
from wgan_fast.backends.triton.norm_rules import norm_terms
from wgan_fast.backends.triton.tiles import elements_left, row_pointers


@kernel
def norm_rows_kernel(
    x: tl.tensor,
    mean: tl.tensor,
    rstd: tl.tensor,
    weight: tl.tensor,
    g: tl.tensor,
    v: tl.tensor,
    to_output: tl.tensor,
    to_x: tl.tensor,
    partials: tl.tensor,
    batch: tl.int64,
    groups: tl.int64,
    size: tl.int64,
    per_chunk: tl.int64,
    CENTERED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    TO_OUTPUT: tl.constexpr,
    TO_X: tl.constexpr,
    TO_WEIGHT: tl.constexpr,
    VECTOR: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """A program has one group of the samples of a chunk, ROWS at a time; a weight is one per value of a sample."""
    program = tl.program_id(0).to(tl.int64)
    chunk, group = program // groups, program % groups
    columns = tl.arange(0, COLUMNS)[None, :]
    inside = columns < elements_left(0, size, COLUMNS, VECTOR)
    count = size.to(WIDE)
    sums = tl.zeros((ROWS, COLUMNS), WIDE)
    if WEIGHTED:
        w = tl.load(row_pointers(weight, group * size, VECTOR) + columns, mask=inside, other=0)
    last = tl.minimum(batch, (chunk + 1) * per_chunk)
    for first in range(chunk * per_chunk, last, ROWS):
        samples = first + tl.arange(0, ROWS)
        live = samples < last
        rows = samples * groups + group
        mask = live[:, None] & inside
        scale = tl.load(rstd + rows, mask=live, other=0)[:, None]
        normalized = tl.load(row_pointers(x, rows * size, VECTOR)[:, None] + columns, mask=mask, other=0).to(WIDE)
        if CENTERED:
            normalized = normalized - tl.load(mean + rows, mask=live, other=0)[:, None]
        normalized = normalized * scale
        tangent = tl.load(row_pointers(v, rows * size, VECTOR)[:, None] + columns, mask=mask, other=0).to(WIDE)
        signal = tangent
        if TO_X or TO_WEIGHT:
            signal = tl.load(row_pointers(g, rows * size, VECTOR)[:, None] + columns, mask=mask, other=0).to(WIDE)
        weighted = signal
        if WEIGHTED:
            weighted = signal * w
        c, d, m1, of_v, of_g, of_x = norm_terms(
            tl.sum(tangent, axis=1)[:, None],
            tl.sum(tangent * normalized, axis=1)[:, None],
            tl.sum(weighted, axis=1)[:, None],
            tl.sum(weighted * normalized, axis=1)[:, None],
            tl.sum(tangent * weighted, axis=1)[:, None],
            scale,
            count,
            CENTERED,
        )
        k = scale * (tangent - c - normalized * d)
        if TO_WEIGHT:
            sums += tl.where(mask, signal * k, 0)
        if TO_OUTPUT:
            result = k
            if WEIGHTED:
                result = w * k
            tl.store(row_pointers(to_output, rows * size, VECTOR)[:, None] + columns, result.to(DTYPE), mask=mask)
        if TO_X:
            result = (tangent - c) * of_v + (weighted - m1) * of_g + normalized * of_x
            tl.store(row_pointers(to_x, rows * size, VECTOR)[:, None] + columns, result.to(DTYPE), mask=mask)
    if TO_WEIGHT:
        total = tl.sum(sums, axis=0)[None, :]
        tl.store(row_pointers(partials, program * size, VECTOR) + columns, total, mask=inside)


@kernel
def norm_total_kernel(
    partials: tl.tensor,
    total: tl.tensor,
    chunks: tl.int64,
    size: tl.int64,
    VECTOR: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """total[i] = Σ partials[chunk, i], in ascending order of the chunks."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lanes = tl.arange(0, BLOCK)
    inside = lanes < elements_left(start, size, BLOCK, VECTOR)
    sums = tl.zeros((BLOCK,), WIDE)
    for chunk in range(chunks):
        sums += tl.load(row_pointers(partials, chunk * size + start, VECTOR) + lanes, mask=inside, other=0)
    tl.store(row_pointers(total, start, VECTOR) + lanes, sums, mask=inside)
