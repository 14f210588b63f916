"""The arithmetic of norm_double_backward on tiles of rows, as ``csrc/norm_rules.h`` has it for the others."""

from __future__ import annotations

import triton
import triton.language as tl

from wgan_fast.backends.triton.rules import divide


@triton.jit
def norm_terms(
    sum_v: tl.tensor,
    sum_vx: tl.tensor,
    sum_g: tl.tensor,
    sum_gx: tl.tensor,
    sum_vg: tl.tensor,
    rstd: tl.tensor,
    size: tl.tensor,
    CENTERED: tl.constexpr,
) -> tl.tensor:
    """(c, d, m1, factors of v - c, ĝ - m1 and x̂ in the gradient with respect to x), from the sums over a row."""
    c = sum_v * 0
    m1 = c
    if CENTERED:
        c = divide(sum_v, size)
        m1 = divide(sum_g, size)
    d = divide(sum_vx, size)
    m2 = divide(sum_gx, size)
    e = divide(sum_vg, size)
    squared = rstd * rstd
    return c, d, m1, -squared * m2, -squared * d, -squared * (e - c * m1 - 3 * d * m2)
