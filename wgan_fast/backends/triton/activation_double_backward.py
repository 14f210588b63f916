"""activation_double_backward: three tensors read, two written, in one launch over flat memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from wgan_fast.activation_table import three_numbers
from wgan_fast.backends.triton.activation_rules import slope_of
from wgan_fast.backends.triton.launching import kernel, launch
from wgan_fast.backends.triton.rules import DTYPES, WIDE, block_of
from wgan_fast.backends.triton.tiles import elements_left, row_pointers, vector_length
from wgan_fast.memory_layout import dense_alike

BLOCK = 2048  # elements per program
WARPS = 8


@kernel
def activation_double_backward_kernel(
    saved: tl.tensor,
    grad_output: tl.tensor,
    grad_grad_input: tl.tensor,
    to_grad_output: tl.tensor,
    to_saved: tl.tensor,
    size: tl.int64,
    a: tl.float64,
    b: tl.float64,
    c: tl.float64,
    ACTIVATION: tl.constexpr,
    TO_GRAD_OUTPUT: tl.constexpr,
    TO_SAVED: tl.constexpr,
    VECTOR: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    start = tl.program_id(0).to(tl.int64) * BLOCK
    columns = tl.arange(0, BLOCK)
    mask = columns < elements_left(start, size, BLOCK, VECTOR)
    s = tl.load(row_pointers(saved, start, VECTOR) + columns, mask=mask, other=0).to(WIDE)
    v = tl.load(row_pointers(grad_grad_input, start, VECTOR) + columns, mask=mask, other=0).to(WIDE)
    value, derivative = slope_of(s, a, b, c, ACTIVATION, WIDE)
    if TO_GRAD_OUTPUT:
        tl.store(row_pointers(to_grad_output, start, VECTOR) + columns, (v * value).to(DTYPE), mask=mask)
    if TO_SAVED:
        g = tl.load(row_pointers(grad_output, start, VECTOR) + columns, mask=mask, other=0).to(WIDE)
        tl.store(row_pointers(to_saved, start, VECTOR) + columns, (v * g * derivative).to(DTYPE), mask=mask)


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
    results = [torch.empty_like(saved) if wanted else None for wanted in needed]
    # The address of an absent tensor is never read, so any other address will do.
    signal, first, second = (saved if tensor is None else tensor for tensor in (g, results[0], results[1]))
    size, block = saved.numel(), block_of(BLOCK, saved.dtype)
    launch(
        activation_double_backward_kernel,
        triton.cdiv(size, block),
        WARPS,
        (saved, signal, v, first, second, size, *three_numbers(options)),
        (
            activation,
            *needed,
            vector_length(size, saved, signal, v, first, second),
            DTYPES[saved.dtype],
            WIDE[saved.dtype],
            block,
        ),
    )
    return results[0], results[1]
