"""RMSprop and the clamp on one chunk per program, in the arithmetic of ``csrc/rules.h``."""

from __future__ import annotations

import triton
import triton.language as tl

from wgan_fast.backends.triton.launching import kernel
from wgan_fast.backends.triton.multi_tensor import chunk_of, load, row_of, store
from wgan_fast.backends.triton.rules import clamp, divide, lerp, scalar, square_root


@kernel
def rmsprop_kernel(
    table: tl.tensor,
    lr_tensor: tl.tensor,
    lr: tl.float64,
    alpha: tl.float64,
    eps: tl.float64,
    weight_decay: tl.float64,
    momentum: tl.float64,
    lo: tl.float64,
    hi: tl.float64,
    LR: tl.constexpr,
    CENTERED: tl.constexpr,
    MOMENTUM: tl.constexpr,
    DECAY: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Lists: parameters, gradients, square averages; gradient averages, momentum buffers where used."""
    row = row_of(table, 3 + CENTERED + MOMENTUM)
    elements = tl.load(row)
    if LR is not None:
        lr = tl.load(lr_tensor).to(tl.float64)
    numbers = (lr, alpha, eps, weight_decay, momentum, lo, hi)
    if elements > 0:
        _rmsprop_chunk(row, elements, numbers, CENTERED, MOMENTUM, DECAY, MAXIMIZE, True, DTYPE, WIDE, BLOCK)
    else:
        _rmsprop_chunk(row, -elements, numbers, CENTERED, MOMENTUM, DECAY, MAXIMIZE, False, DTYPE, WIDE, PIECE)


@triton.jit
def _rmsprop_chunk(
    row: tl.tensor,
    elements: tl.tensor,
    numbers: tl.tuple,
    CENTERED: tl.constexpr,
    MOMENTUM: tl.constexpr,
    DECAY: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    FULL: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    lr, alpha, eps, weight_decay, momentum, lo, hi = numbers
    params = chunk_of(row, 0, FULL, DTYPE)
    square_avgs = chunk_of(row, 2, FULL, DTYPE)
    p = load(params, elements, FULL, BLOCK).to(WIDE)
    g = load(chunk_of(row, 1, FULL, DTYPE), elements, FULL, BLOCK).to(WIDE)
    v = load(square_avgs, elements, FULL, BLOCK).to(WIDE)
    if MAXIMIZE:
        g = -g
    if DECAY:
        g = g + scalar(weight_decay, WIDE) * p
    v = v * scalar(alpha, WIDE) + scalar(1 - alpha, WIDE) * g * g
    store(square_avgs, v.to(DTYPE), elements, FULL, BLOCK)
    if CENTERED:
        grad_avgs = chunk_of(row, 3, FULL, DTYPE)
        m = lerp(load(grad_avgs, elements, FULL, BLOCK).to(WIDE), g, scalar(1 - alpha, WIDE))
        store(grad_avgs, m.to(DTYPE), elements, FULL, BLOCK)
        v = v - m * m
    denominator = square_root(v) + scalar(eps, WIDE)
    if MOMENTUM:
        buffers = chunk_of(row, 3 + CENTERED, FULL, DTYPE)
        b = load(buffers, elements, FULL, BLOCK).to(WIDE) * scalar(momentum, WIDE) + divide(g, denominator)
        store(buffers, b.to(DTYPE), elements, FULL, BLOCK)
        p = p - scalar(lr, WIDE) * b
    else:
        p = p - divide(scalar(lr, WIDE) * g, denominator)
    store(params, clamp(p.to(DTYPE), lo, hi, DTYPE, WIDE), elements, FULL, BLOCK)
