"""Arithmetic as PTX defines it: IEEE roundings, saturating conversions, minima that drop NaN."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from lanes import Array

INTEGRAL: dict[str, Callable[[Array], Array]] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def flush(values: Array) -> Array:
    """Subnormal numbers as zeros of their sign."""
    tiny = np.finfo(values.dtype).tiny
    return np.where(np.abs(values) < tiny, np.copysign(values.dtype.type(0), values), values)


# --------------------------------------------------------------------------------------------------------- floats


def fma(a: Array, b: Array, c: Array) -> Array:
    """a b + c, rounded once."""
    dtype = np.result_type(a)
    if dtype == np.float64:
        return _fma64(*np.broadcast_arrays(*(np.atleast_1d(x).astype(np.float64) for x in (a, b, c))))
    # The product of two floats is exact in fp64. The sum, rounded to odd there, rounds as the exact sum does.
    product, addend = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    return _sum_to_odd(product, addend).astype(dtype)


def fma_down(a: Array, b: Array, c: Array) -> Array:
    """a b + c in fp32, rounded towards minus infinity."""
    product, addend = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    # Rounded to odd, a sum that is not exact stays on its side of every fp32 number.
    total = _sum_to_odd(product, addend)
    total = np.where((total == 0) & (np.signbit(product) | np.signbit(addend)), -0.0, total)
    nearest = total.astype(np.float32)
    return np.where(nearest > total, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _sum_to_odd(a: Array, b: Array) -> Array:
    """a + b in fp64; where that is not exact, the neighbour of the exact sum whose last bit is set."""
    total, error = np.broadcast_arrays(*_two_sum(a, b))
    total = np.array(total)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    bits += np.where(inexact, np.where((error > 0) == (total > 0), 1, -1), 0)
    return total


def _split(a: Array) -> tuple[Array, Array]:
    scaled = a * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - a)
    return high, a - high


def _fma64(a: Array, b: Array, c: Array) -> Array:
    """After Boldo and Melquiond, "Emulation of FMA and correctly rounded sums" (2008); extreme numbers exactly."""
    product = a * b
    (a1, a2), (b1, b2) = _split(a), _split(b)
    error = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
    high, low = _two_sum(c, error)
    top, rest = _two_sum(product, high)
    result = top + _sum_to_odd(rest, low)
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    large = np.maximum.reduce([np.abs(x) for x in (a, b, c, product)]) > 2.0**990
    small = (product != 0) & (np.abs(product) < 2.0**-900) | ((product == 0) & (a != 0) & (b != 0))
    plain = ~finite | ((a == 0) | (b == 0))
    result = np.where(plain, product + c, result)
    for i in np.flatnonzero(finite & ~plain & (large | small)):
        result[i] = _exactly(float(a[i]), float(b[i]), float(c[i]))
    return result


def _exactly(a: float, b: float, c: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c if a * b != 0 or c != 0 else 0.0
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


def minimum(a: Array, b: Array) -> Array:
    """The other one where one is NaN; -0.0 lies below 0.0."""
    return np.where((a == 0) & (b == 0), np.where(np.signbit(a), a, b), np.fmin(a, b))


def maximum(a: Array, b: Array) -> Array:
    return np.where((a == 0) & (b == 0), np.where(np.signbit(a), b, a), np.fmax(a, b))


def with_nan(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """min.NaN and max.NaN: NaN where either is."""
    return lambda a, b: np.where(np.isnan(a) | np.isnan(b), np.result_type(a).type(np.nan), function(a, b))


def approximate(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The exact result, rounded: the hardware's own is off by a few units in the last place."""
    return lambda a: function(np.asarray(a, np.float64)).astype(np.result_type(a))


# ------------------------------------------------------------------------------------------------------- integers


def quotient(a: Array, b: Array) -> Array:
    """Rounded towards zero."""
    if np.result_type(a).kind == "u":
        return a // b
    down = a // b
    return down + ((a - down * b != 0) & ((a < 0) != (b < 0)))


def remainder(a: Array, b: Array) -> Array:
    return a - quotient(a, b) * b


def shift_left(a: Array, by: Array) -> Array:
    bits = np.result_type(a).itemsize * 8
    return np.where(by < bits, a << np.minimum(by, bits - 1).astype(np.result_type(a)), np.result_type(a).type(0))


def shift_right(a: Array, by: Array) -> Array:
    dtype = np.result_type(a)
    bits = dtype.itemsize * 8
    shifted = a >> np.minimum(by, bits - 1).astype(dtype)
    return shifted if dtype.kind == "i" else np.where(by < bits, shifted, dtype.type(0))


def high_product(a: Array, b: Array) -> Array:
    """The upper half of the product."""
    dtype = np.result_type(a)
    if dtype.itemsize < 8:
        wide = np.dtype(f"{dtype.kind}{dtype.itemsize * 2}")
        return ((np.asarray(a, wide) * np.asarray(b, wide)) >> (dtype.itemsize * 8)).astype(dtype)
    exact = np.multiply(np.asarray(a, object), np.asarray(b, object)) >> 64
    return np.asarray(exact % 2**64, np.uint64).view(dtype)


def bit_field(a: Array, position: Array, length: Array) -> Array:
    """bfe: ``length`` bits from ``position``, extended with their sign where the type has one."""
    dtype = np.result_type(a)
    bits = dtype.itemsize * 8
    position, length = (np.asarray(x, np.int64) & 0xFF for x in (position, length))
    last = np.minimum(position + length - 1, bits - 1)
    wide = np.asarray(a).view(f"u{dtype.itemsize}").astype(object)
    every = np.asarray((wide >> position) & ((1 << length.astype(object)) - 1))
    if dtype.kind == "i":
        negative = np.asarray(length > 0) & np.asarray((wide >> last) & 1, bool)
        every = np.where(negative, every | (-1 << length.astype(object)), every)
    return np.asarray(every % 2**bits, dtype=np.uint64).astype(f"u{dtype.itemsize}").view(dtype)


def prmt(a: Array, b: Array, selector: Array) -> Array:
    """Any four of the eight bytes of b:a; a selector's top bit repeats the sign of its byte."""
    both = (np.asarray(b, np.uint64) << np.uint64(32)) | np.asarray(a, np.uint64)
    result = np.uint32(0)
    for i in range(4):
        choice = (np.asarray(selector, np.uint64) >> np.uint64(4 * i)) & np.uint64(15)
        byte = (both >> ((choice & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
        sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
        chosen = np.where(choice & np.uint64(8), sign, byte).astype(np.uint32)
        result = result | (chosen << np.uint32(8 * i))
    return np.asarray(result, np.uint32)


def lop3(a: Array, b: Array, c: Array, table: int) -> Array:
    result = np.uint32(0)
    for i in range(8):
        if table >> i & 1:
            result = result | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return np.asarray(result, np.uint32)


# ---------------------------------------------------------------------------------------------------- comparisons

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "lo": operator.lt,
    "ls": operator.le,
    "hi": operator.gt,
    "hs": operator.ge,
}
FLOAT_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    **{name: COMPARE[name] for name in ("eq", "lt", "le", "gt", "ge")},
    "ne": lambda a, b: (a < b) | (a > b),
    # True for NaN as well.
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": operator.ne,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}


# ---------------------------------------------------------------------------------------------------- conversions


def to_integer(values: Array, dtype: np.dtype[Any], rounding: str) -> Array:
    """The ends of the type for what lies outside; 0 for NaN, or the top bit alone where 64 bits are on a side."""
    wide = np.asarray(INTEGRAL[rounding](values), np.float64)
    info = np.iinfo(dtype)
    nan = dtype.type(0)
    if np.result_type(values) == np.float64 or dtype.itemsize == 8:
        nan = np.array(1 << (dtype.itemsize * 8 - 1), f"u{dtype.itemsize}").view(dtype)[()]
    above, below = wide >= float(info.max), wide <= float(info.min)
    inside = np.where(above | below | np.isnan(wide), 0.0, wide).astype(dtype)
    result = np.where(above, dtype.type(info.max), np.where(below, dtype.type(info.min), inside))
    return np.where(np.isnan(wide), nan, result)
