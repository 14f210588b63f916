"""Adam and the clamp on one chunk per program, in the arithmetic of ``csrc/rules.h``; its bias corrections."""

from __future__ import annotations

import triton
import triton.language as tl

from wgan_fast.backends.triton.launching import kernel
from wgan_fast.backends.triton.multi_tensor import chunk_of, load, row_of, store
from wgan_fast.backends.triton.rules import clamp, divide, lerp, scalar, square_root


@kernel
def count_kernel(
    steps: tl.tensor,
    corrections: tl.tensor,
    count: tl.int64,
    log2_beta1: tl.float64,
    log2_beta2: tl.float64,
    BLOCK: tl.constexpr,
) -> None:
    """Add 1 to the step counts at the addresses ``steps``; write corrections, (tensors, 2): see below."""
    tensors = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = tensors < count
    places = tl.load(steps + tensors, mask=live, other=0).to(tl.pointer_type(tl.float32))
    step = tl.load(places, mask=live, other=0) + 1
    tl.store(places, step, mask=live)
    wide = tl.where(live, step, 1).to(tl.float64)
    tl.store(corrections + 2 * tensors, 1 - tl.exp2(wide * log2_beta1), mask=live)
    tl.store(corrections + 2 * tensors + 1, 1 / tl.sqrt(1 - tl.exp2(wide * log2_beta2)), mask=live)


@kernel
def adam_kernel(
    table: tl.tensor,
    lr_tensor: tl.tensor,
    corrections: tl.tensor,
    lr: tl.float64,
    correction: tl.float64,
    inverse_root: tl.float64,
    beta1: tl.float64,
    beta2: tl.float64,
    eps: tl.float64,
    weight_decay: tl.float64,
    lo: tl.float64,
    hi: tl.float64,
    LR: tl.constexpr,
    CORRECTIONS: tl.constexpr,
    AMSGRAD: tl.constexpr,
    DECAY: tl.constexpr,
    DECOUPLED: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Lists: parameters, gradients, first and second moments, then the largest second moments for AMSGrad.

    ``correction`` is 1 - beta1^step, ``inverse_root`` 1 / sqrt(1 - beta2^step); with CORRECTIONS both are
    read from ``corrections``, one pair per tensor.
    """
    row = row_of(table, 4 + AMSGRAD)
    elements = tl.load(row)
    if LR is not None:
        lr = tl.load(lr_tensor).to(tl.float64)
    if CORRECTIONS:
        place = corrections + 2 * tl.load(row + 1)
        correction = tl.load(place)
        inverse_root = tl.load(place + 1)
    numbers = (lr, correction, inverse_root, beta1, beta2, eps, weight_decay, lo, hi)
    if elements > 0:
        _adam_chunk(row, elements, numbers, AMSGRAD, DECAY, DECOUPLED, MAXIMIZE, True, DTYPE, WIDE, BLOCK)
    else:
        _adam_chunk(row, -elements, numbers, AMSGRAD, DECAY, DECOUPLED, MAXIMIZE, False, DTYPE, WIDE, PIECE)


@triton.jit
def _adam_chunk(
    row: tl.tensor,
    elements: tl.tensor,
    numbers: tl.tuple,
    AMSGRAD: tl.constexpr,
    DECAY: tl.constexpr,
    DECOUPLED: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    FULL: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    lr, correction, inverse_root, beta1, beta2, eps, weight_decay, lo, hi = numbers
    params = chunk_of(row, 0, FULL, DTYPE)
    exp_avgs = chunk_of(row, 2, FULL, DTYPE)
    exp_avg_sqs = chunk_of(row, 3, FULL, DTYPE)
    p = load(params, elements, FULL, BLOCK).to(WIDE)
    g = load(chunk_of(row, 1, FULL, DTYPE), elements, FULL, BLOCK).to(WIDE)
    m = load(exp_avgs, elements, FULL, BLOCK).to(WIDE)
    v = load(exp_avg_sqs, elements, FULL, BLOCK).to(WIDE)
    if MAXIMIZE:
        g = -g
    if DECAY:
        if DECOUPLED:
            p = p * scalar(1 - lr * weight_decay, WIDE)
        else:
            g = g + scalar(weight_decay, WIDE) * p
    m = lerp(m, g, scalar(1 - beta1, WIDE))
    v = v * scalar(beta2, WIDE) + scalar(1 - beta2, WIDE) * g * g
    store(exp_avgs, m.to(DTYPE), elements, FULL, BLOCK)
    store(exp_avg_sqs, v.to(DTYPE), elements, FULL, BLOCK)
    if AMSGRAD:
        largest = chunk_of(row, 4, FULL, DTYPE)
        before = load(largest, elements, FULL, BLOCK).to(WIDE)
        # The larger one, and NaN if either is: torch.maximum.
        v = tl.where((before >= v) | (before != before), before, v)
        store(largest, v.to(DTYPE), elements, FULL, BLOCK)
    step_size = divide(scalar(lr, WIDE), scalar(correction, WIDE))
    denominator = square_root(v) * scalar(inverse_root, WIDE) + scalar(eps, WIDE)
    p = p - divide(step_size * m, denominator)
    store(params, clamp(p.to(DTYPE), lo, hi, DTYPE, WIDE), elements, FULL, BLOCK)
