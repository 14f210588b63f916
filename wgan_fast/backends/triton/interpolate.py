"""interpolate: x_b = fake_b + alpha_b (real_b - fake_b), each input read once, the output written once.

The batch is cut into tiles of ROWS samples by COLUMNS elements: a long sample is spread over several
programs, several short ones share one.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from wgan_fast.backends.triton.launching import kernel, launch
from wgan_fast.backends.triton.rules import DTYPES, WIDE, block_of, lerp
from wgan_fast.backends.triton.tiles import elements_left, row_pointers, vector_length
from wgan_fast.memory_layout import interpolation_operands

BLOCK = 4096  # elements per program
WARPS = 8


@kernel
def interpolate_kernel(
    real: tl.tensor,
    fake: tl.tensor,
    alpha: tl.tensor,
    out: tl.tensor,
    batch: tl.int64,
    size: tl.int64,
    VECTOR: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    tiles = (size + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0).to(tl.int64)
    rows = program // tiles * ROWS + tl.arange(0, ROWS)
    start = program % tiles * COLUMNS
    columns = tl.arange(0, COLUMNS)[None, :]
    mask = (rows < batch)[:, None] & (columns < elements_left(start, size, COLUMNS, VECTOR))
    first = rows * size + start
    ends = tl.load(row_pointers(real, first, VECTOR)[:, None] + columns, mask=mask, other=0).to(WIDE)
    starts = tl.load(row_pointers(fake, first, VECTOR)[:, None] + columns, mask=mask, other=0).to(WIDE)
    weights = tl.load(alpha + rows, mask=rows < batch, other=0)[:, None]
    mixed = lerp(starts, ends, weights).to(DTYPE)
    tl.store(row_pointers(out, first, VECTOR)[:, None] + columns, mixed, mask=mask)


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, out: Tensor | None = None) -> Tensor:
    real, fake, alpha, mixed = interpolation_operands(real, fake, alpha, out)
    if real.numel() > 0:
        batch = real.shape[0]
        size = real.numel() // batch
        block = block_of(BLOCK, real.dtype)
        columns = min(block, triton.next_power_of_2(size))
        rows = block // columns
        launch(
            interpolate_kernel,
            triton.cdiv(batch, rows) * triton.cdiv(size, columns),
            WARPS,
            (real, fake, alpha, mixed, batch, size),
            (vector_length(size, real, fake, mixed), DTYPES[real.dtype], WIDE[real.dtype], rows, columns),
        )
    return mixed if out is None or mixed is out else out.copy_(mixed)
