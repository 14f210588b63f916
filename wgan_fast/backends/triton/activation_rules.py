"""The slopes of smooth activations, f(s) and f'(s), as ``csrc/activation_rules.h`` has them for the compiled backends.

The operations are those of that file in their order; ``exponential`` is the device's, to 2 ulp in fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wgan_fast.backends.triton.rules import divide, scalar


@triton.jit
def logistic(x: tl.tensor) -> tl.tensor:
    """t = e^(-|x|), and the logistic function of x and of -x, each to full relative accuracy."""
    t = tl.exp(-tl.abs(x))
    r = divide(tl.full(t.shape, 1.0, t.dtype), 1 + t)
    small = t * r
    return t, tl.where(x < 0, small, r), tl.where(x < 0, r, small)


@triton.jit
def normal_tail(a: tl.tensor, e: tl.tensor) -> tl.tensor:
    """The normal distribution's tail Φ(-a), a >= 0, where e = exp(-a²/2) is known."""
    if a.dtype == tl.float64:
        tail = 0.5 * (1 - tl.erf(a * 0.7071067811865476))
    else:
        r = divide(tl.full(a.shape, 1.0, a.dtype), a + 4)
        w = 1 - 8 * r
        p = -0.0001545548
        p = p * w + 0.000127222505
        p = p * w + 0.00155857776
        p = p * w - 0.00347237661
        p = p * w - 0.00750917848
        p = p * w + 0.0603932291
        p = p * w - 0.186527297
        p = p * w + 0.38713792
        p = p * w - 0.607896388
        p = p * w + 0.755285144
        tail = e * (p * r)
    return tail


@triton.jit
def slope_of(
    s: tl.tensor, a: tl.tensor, b: tl.tensor, c: tl.tensor, ACTIVATION: tl.constexpr, WIDE: tl.constexpr
) -> tl.tensor:
    """f(s) and f'(s); ``a``, ``b`` and ``c`` are the options."""
    if ACTIVATION == "silu":
        t, p, q = logistic(s)
        pq = p * q
        value = p + s * p * q
        derivative = 2 * pq + s * pq * (q - p)
    elif ACTIVATION == "gelu":
        e = tl.exp(-0.5 * s * s)
        density = e * 0.3989422804014327
        tail = normal_tail(tl.abs(s), e)
        value = tl.where(s < 0, tail, 1 - tail) + s * density
        derivative = 2 * density - s * (s * density)
    elif ACTIVATION == "gelu_tanh":
        k = 0.7978845608028654
        t, p, q = logistic(2 * (k * s * (1 + 0.044715 * s * s)))
        m = 4 * p * q
        mu = k * (m + 0.134145 * s * (s * m))
        muu = k * (mu + 0.134145 * s * (s * mu))
        value = p + 0.5 * s * mu
        derivative = mu + s * (0.134145 * k * (s * m) - (p - q) * muu)
    elif ACTIVATION == "elu":
        input_scale = scalar(c, WIDE)
        e = tl.exp(tl.where(s > 0, 0, s) * input_scale) * scalar(a * b * c, WIDE)
        value = tl.where(s > 0, scalar(b, WIDE), e)
        derivative = tl.where(s >= 0, 0, e * input_scale)
    elif ACTIVATION == "elu_result":
        input_scale = scalar(c, WIDE)
        value = tl.where(s > 0, scalar(b, WIDE), (s + scalar(a * b, WIDE)) * input_scale)
        derivative = tl.where(s >= 0, 0, input_scale)
    elif ACTIVATION == "softplus":
        beta = scalar(a, WIDE)
        threshold = scalar(b, WIDE)
        z = s * beta
        t, p, q = logistic(z)
        value = tl.where(z > threshold, 1, p)
        derivative = tl.where(z >= threshold, 0, beta * p * q)
    elif ACTIVATION == "tanh_result":
        value = 1 - s * s
        derivative = -2 * s
    elif ACTIVATION == "sigmoid_result":
        value = s * (1 - s)
        derivative = 1 - 2 * s
    elif ACTIVATION == "mish":
        t, p, q = logistic(s)
        negative = s < 0
        square = t * t
        denominator = tl.where(negative, 2 + 2 * t + square, 1 + 2 * t + 2 * square)
        inverse = divide(tl.full(t.shape, 1.0, t.dtype), denominator)
        tanh = tl.where(negative, 2 * t + square, 1 + 2 * t) * inverse
        root = 2 * tl.where(negative, 1 + t, t + square) * inverse
        mp = root * root * p
        value = tanh + s * mp
        derivative = 2 * mp + s * mp * (q - 2 * tanh * p)
    elif ACTIVATION == "hardswish":
        inner = divide(s, tl.full(s.shape, 3.0, s.dtype)) + 0.5
        value = tl.where(s <= -3, 0, tl.where(s >= 3, 1, inner))
        derivative = tl.where((s > -3) & (s < 3), tl.full(s.shape, 0.3333333333333333, s.dtype), 0)
    elif ACTIVATION == "softsign":
        r = divide(tl.full(s.shape, 1.0, s.dtype), 1 + tl.abs(s))
        cube = -2 * (r * r) * r
        undefined = s - s
        value = r * r + undefined
        derivative = tl.where(s > 0, cube, tl.where(s < 0, -cube, 0)) + undefined
    else:
        tl.static_assert(ACTIVATION == "logsigmoid")
        t, p, q = logistic(s)
        value = q
        derivative = -(p * q)
    return value, derivative
