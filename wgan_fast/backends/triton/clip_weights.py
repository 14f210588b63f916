"""clip_weights: every tensor of a list clamped in place, in one launch per dtype."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from wgan_fast.backends.triton.launching import kernel, launch
from wgan_fast.backends.triton.multi_tensor import (
    Lists,
    all_lie_alike,
    chunk_of,
    chunks_of,
    kind_of,
    load,
    row_of,
    split,
    store,
)
from wgan_fast.backends.triton.rules import block_of, clamp

# Elements per program: the 2.8 M parameters of a DCGAN critic make 680 programs, five per multiprocessor of an
# H100.
BLOCK = 4096
WARPS = 4


@kernel
def clip_kernel(
    table: tl.tensor,
    lo: tl.float64,
    hi: tl.float64,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = row_of(table, 1)
    elements = tl.load(row)
    if elements > 0:
        _clip_chunk(row, elements, lo, hi, True, DTYPE, WIDE, BLOCK)
    else:
        _clip_chunk(row, -elements, lo, hi, False, DTYPE, WIDE, PIECE)


@triton.jit
def _clip_chunk(
    row: tl.tensor,
    elements: tl.tensor,
    lo: tl.tensor,
    hi: tl.tensor,
    FULL: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    chunk = chunk_of(row, 0, FULL, DTYPE)
    store(chunk, clamp(load(chunk, elements, FULL, BLOCK), lo, hi, DTYPE, WIDE), elements, FULL, BLOCK)


def clip_weights_(tensors: Sequence[Tensor], lo: float, hi: float) -> list[int]:
    groups: list[Lists] = [[tensors]]
    rest: list[int] = []
    if not all_lie_alike([tensors]):
        groups, rest = split([tensors], [kind_of([tensor]) for tensor in tensors])
    for lists in groups:
        table, constants = chunks_of(lists, block_of(BLOCK, lists[0][0].dtype), WARPS)
        launch(clip_kernel, table.shape[0], WARPS, (table, lo, hi), constants)
    return rest
