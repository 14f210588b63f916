"""What each instruction does with registers. Memory, branches and barriers are in memory_access.py and interpreter.py.

A builder takes an instruction and the lanes and returns the function that executes it: everything that can be decided
from the text is decided there, once. A modifier that no builder names is an error, so that none is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import arithmetic as ar
import numpy as np
from lanes import FLOATS, TYPES, Array, Lanes, Mask, Sink, Source, bits_of, f32_to_bf16
from ptx_text import Function, Instruction, UnknownPtx

Step = Callable[[Mask], Any]
Builder = Callable[["Operation"], Step]

BUILDERS: dict[str, Builder] = {}


class Operation:
    """An instruction, the function it stands in and the lanes it is bound to."""

    def __init__(self, instruction: Instruction, function: Function, lanes: Lanes) -> None:
        self.instruction, self.function, self.lanes = instruction, function, lanes
        self.name, *modifiers = instruction.parts
        self.types = [part for part in modifiers if part in TYPES]
        self.modifiers = [part for part in modifiers if part not in TYPES]
        self.operands = instruction.operands

    def allow(self, *modifiers: str) -> None:
        unknown = [modifier for modifier in self.modifiers if modifier not in modifiers]
        if unknown:
            raise UnknownPtx(f"unknown modifier .{unknown[0]} of {self.name}: {self.instruction}")

    def has(self, modifier: str) -> bool:
        return modifier in self.modifiers

    def unknown(self) -> UnknownPtx:
        return UnknownPtx(f"unknown form of {self.name}: {self.instruction}")

    def source(self, position: int, kind: str) -> Source:
        return self.lanes.source(self.function, self.operands[position], kind)

    def sink(self, kind: str, operand: str | None = None) -> Sink:
        return self.lanes.sink(self.function, self.operands[0] if operand is None else operand, kind)

    def elementwise(self, function: Callable[..., Any], kinds: Sequence[str], result: str) -> Step:
        """operand 0 = function(operand 1, operand 2, ...), with the operands read as ``kinds``."""
        if len(self.operands) != len(kinds) + 1 or any(kind.endswith("x2") for kind in (*kinds, result)):
            raise self.unknown()  # a pair is no number
        sources = [self.source(i + 1, kind) for i, kind in enumerate(kinds)]
        sink = self.sink(result)
        if len(sources) == 2:
            first, second = sources
            return lambda mask: sink(function(first(), second()), mask)
        return lambda mask: sink(function(*[source() for source in sources]), mask)


def instruction(*names: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        BUILDERS.update(dict.fromkeys(names, builder))
        return builder

    return register


def flushed(operation: Operation, function: Callable[..., Any]) -> Callable[..., Any]:
    """With .ftz, subnormal operands and results are zeros."""
    if not operation.has("ftz"):
        return function
    return lambda *values: ar.flush(np.asarray(function(*[ar.flush(np.asarray(value)) for value in values])))


# ---------------------------------------------------------------------------------------------- float and integer


@instruction("add", "sub", "min", "max")
def two_operands(op: Operation) -> Step:
    (kind,) = op.types
    function: Any = {"add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum}[op.name]
    if kind not in FLOATS:
        op.allow()
    elif op.name in ("add", "sub"):
        op.allow("rn", "ftz")
    else:
        op.allow("ftz", "NaN")
        function = ar.minimum if op.name == "min" else ar.maximum
        function = ar.with_nan(function) if op.has("NaN") else function
    return op.elementwise(flushed(op, function), [kind] * 2, kind)


@instruction("mul", "mad", "fma")
def multiply(op: Operation) -> Step:
    (kind,) = op.types
    third = [] if op.name == "mul" else [kind]
    if kind in FLOATS:
        op.allow("rn", "rm", "ftz")
        down = op.has("rm")
        if (third and kind not in ("f32", "f64")) or (down and (op.name, kind) != ("fma", "f32")):
            raise op.unknown()
        fma = ar.fma_down if down else ar.fma
        return op.elementwise(flushed(op, fma if third else np.multiply), [kind] * 2 + third, kind)
    op.allow("lo", "hi", "wide")
    product: Callable[..., Any] = np.multiply
    result = kind
    if op.has("hi"):
        product = ar.high_product
    elif op.has("wide"):
        result = f"{kind[0]}{bits_of(kind) * 2}"
        third = [] if op.name == "mul" else [result]
        product = partial(np.multiply, dtype=TYPES[result])
    function = product if not third else (lambda a, b, c: product(a, b) + c)
    return op.elementwise(function, [kind] * 2 + third, result)


@instruction("div", "rem")
def divide(op: Operation) -> Step:
    (kind,) = op.types
    if kind in FLOATS and op.name == "div":
        op.allow("rn", "full", "approx", "ftz")
        return op.elementwise(flushed(op, np.divide), [kind] * 2, kind)
    op.allow()
    return op.elementwise(ar.quotient if op.name == "div" else ar.remainder, [kind] * 2, kind)


@instruction("neg", "abs")
def sign(op: Operation) -> Step:
    op.allow("ftz")
    (kind,) = op.types
    if kind in ("f16x2", "bf16x2"):  # of both halves, the sign bits
        mask, change = (0x7FFF7FFF, np.bitwise_and) if op.name == "abs" else (0x80008000, np.bitwise_xor)
        return op.elementwise(lambda pair: change(pair, np.uint32(mask)), ["b32"], "b32")
    return op.elementwise(flushed(op, np.negative if op.name == "neg" else np.abs), [kind], kind)


@instruction("sqrt", "rcp", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def function_of_one(op: Operation) -> Step:
    (kind,) = op.types
    op.allow("rn", "approx", "ftz")
    exact: dict[str, Callable[[Any], Any]] = {"sqrt": np.sqrt, "rcp": lambda a: np.result_type(a).type(1) / a}
    rough: dict[str, Callable[[Any], Any]] = {
        "rsqrt": lambda a: 1 / np.sqrt(a),
        "ex2": np.exp2,
        "lg2": np.log2,
        "sin": np.sin,
        "cos": np.cos,
        "tanh": np.tanh,
    }
    if op.name in exact:
        function = exact[op.name]
    elif op.has("approx"):
        function = ar.approximate(rough[op.name])
    else:
        raise op.unknown()
    return op.elementwise(flushed(op, function), [kind], kind)


@instruction("copysign")
def copysign(op: Operation) -> Step:
    op.allow()
    (kind,) = op.types
    return op.elementwise(lambda a, b: np.copysign(b, a), [kind] * 2, kind)


# ----------------------------------------------------------------------------------------------------------- bits


@instruction("and", "or", "xor", "not")
def logic(op: Operation) -> Step:
    op.allow()
    (kind,) = op.types
    function = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}[op.name]
    return op.elementwise(function, [kind] * (1 if op.name == "not" else 2), kind)


@instruction("shl", "shr")
def shift(op: Operation) -> Step:
    op.allow()
    (kind,) = op.types
    return op.elementwise(ar.shift_left if op.name == "shl" else ar.shift_right, [kind, "u32"], kind)


@instruction("bfe")
def bit_field_extract(op: Operation) -> Step:
    op.allow()
    (kind,) = op.types
    return op.elementwise(ar.bit_field, [kind, "u32", "u32"], kind)


@instruction("popc")
def population(op: Operation) -> Step:
    op.allow()
    (kind,) = op.types
    return op.elementwise(np.bitwise_count, [kind], "u32")


@instruction("prmt")
def permute_bytes(op: Operation) -> Step:
    op.allow()
    return op.elementwise(ar.prmt, ["b32"] * 3, "b32")


@instruction("lop3")
def any_logic(op: Operation) -> Step:
    op.allow()
    sources, table, sink = [op.source(i, "b32") for i in (1, 2, 3)], int(op.operands[4], 0), op.sink("b32")
    return lambda mask: sink(ar.lop3(*[source() for source in sources], table), mask)


# ---------------------------------------------------------------------------------------------------------- moves


@instruction("mov", "cvta")
def move(op: Operation) -> Step:
    op.allow("to", "global", "shared")
    (kind,) = op.types
    if op.operands[0].startswith("{"):
        return _unpack(op, kind)
    if op.operands[1].startswith("{"):
        return _pack(op, kind)
    source, sink = op.source(1, kind), op.sink(kind)
    return lambda mask: sink(source(), mask)


def elements(operand: str) -> list[str]:
    """The operands in braces, or the one without."""
    return [each.strip() for each in operand.strip("{} ").split(",")]


def _unpack(op: Operation, kind: str) -> Step:
    names, source = elements(op.operands[0]), op.source(1, kind)
    part = f"u{bits_of(kind) // len(names)}"
    sinks = [op.sink(part, name) for name in names]

    def step(mask: Mask) -> None:
        whole = np.ascontiguousarray(np.broadcast_to(source(), op.lanes.count))
        parts = whole.view(TYPES[part]).reshape(-1, len(sinks))
        for i, sink in enumerate(sinks):
            sink(parts[:, i], mask)

    return step


def _pack(op: Operation, kind: str) -> Step:
    names = elements(op.operands[1])
    part = f"u{bits_of(kind) // len(names)}"
    sources = [op.lanes.source(op.function, name, part) for name in names]
    sink = op.sink(kind)

    def step(mask: Mask) -> None:
        parts = np.empty((op.lanes.count, len(sources)), TYPES[part])
        for i, source in enumerate(sources):
            parts[:, i] = source()
        sink(parts.view(TYPES[kind])[:, 0], mask)

    return step


@instruction("selp")
def select(op: Operation) -> Step:
    op.allow()
    (kind,) = op.types
    bits = f"b{bits_of(kind)}" if kind in ("f16", "bf16") else kind
    return op.elementwise(lambda a, b, chosen: np.where(chosen, a, b), [bits, bits, "pred"], bits)


@instruction("cvt")
def convert(op: Operation) -> Step:
    op.allow("rn", "rz", "ftz", "sat", *ar.INTEGRAL)
    to, of = op.types
    rounding = next((modifier for modifier in op.modifiers if modifier in ar.INTEGRAL), None)
    if to in ("bf16x2", "f16x2"):
        return _convert_two(op, to, of)
    if of not in FLOATS:
        if op.has("sat") or op.has("rz") or rounding:
            raise op.unknown()
        return op.elementwise(lambda a: np.asarray(a).astype(TYPES[to]), [of], to)
    if to not in FLOATS:
        if rounding is None:
            raise op.unknown()
        return op.elementwise(flushed(op, lambda a: ar.to_integer(a, TYPES[to], rounding)), [of], to)
    if op.has("rz"):
        raise op.unknown()

    def function(a: Array) -> Array:
        a = ar.INTEGRAL[rounding](a) if rounding else a
        a = ar.flush(np.asarray(a)) if op.has("ftz") else np.asarray(a)
        a = np.where(a > 0, np.minimum(a, a.dtype.type(1)), a.dtype.type(0)) if op.has("sat") else a
        return a.astype(TYPES[to])

    return op.elementwise(function, [of], to)


def _convert_two(op: Operation, to: str, of: str) -> Step:
    op.allow("rn")
    if of != "f32":
        raise op.unknown()

    def bits(values: Array) -> Array:
        narrow = f32_to_bf16(values) if to == "bf16x2" else np.asarray(values).astype(np.float16).view(np.uint16)
        return np.asarray(narrow, np.uint32)

    return op.elementwise(lambda high, low: (bits(high) << np.uint32(16)) | bits(low), ["f32", "f32"], "b32")


# ---------------------------------------------------------------------------------------------------- comparisons


@instruction("setp")
def set_predicate(op: Operation) -> Step:
    comparison, *rest = op.modifiers
    kind = op.types[0]
    if kind in ("f16x2", "bf16x2"):
        return _set_two_predicates(op, comparison, kind.removesuffix("x2"))
    op.allow(comparison, "and", "or", "xor", "ftz")
    table = ar.FLOAT_COMPARE if kind in FLOATS else ar.COMPARE
    if comparison not in table:
        raise op.unknown()
    compare = table[comparison]
    first, second = op.source(1, kind), op.source(2, kind)
    names = [name.strip() for name in op.operands[0].split("|")]
    sinks = [op.sink("pred", name) for name in names]
    joined = next((modifier for modifier in rest if modifier in ("and", "or", "xor")), None)
    third = op.source(3, "pred") if joined else None
    join = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, None: None}[joined]
    flush = op.has("ftz")

    def step(mask: Mask) -> None:
        a, b = first(), second()
        result = compare(ar.flush(a), ar.flush(b)) if flush else compare(a, b)
        for i, sink in enumerate(sinks):
            value = ~result if i else result
            sink(value if third is None or join is None else join(value, third()), mask)

    return step


def _set_two_predicates(op: Operation, comparison: str, kind: str) -> Step:
    op.allow(comparison)
    compare = ar.FLOAT_COMPARE[comparison]
    sources = [op.source(i, "b32") for i in (1, 2)]
    sinks = [op.sink("pred", name.strip()) for name in op.operands[0].split("|")]
    if len(sinks) != 2:
        raise op.unknown()

    def step(mask: Mask) -> None:
        bits = [np.broadcast_to(source(), op.lanes.count) for source in sources]
        for sink, low in zip(sinks, (0, 16), strict=True):
            halves = [(each >> np.uint32(low)).astype(np.uint16) for each in bits]
            if kind == "bf16":
                a, b = ((half.astype(np.uint32) << np.uint32(16)).view(np.float32) for half in halves)
            else:
                a, b = (half.view(np.float16) for half in halves)
            sink(compare(a, b), mask)

    return step
