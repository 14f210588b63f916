"""Loads and stores: of global and shared memory, of the parameters of a launch and of a call."""

from __future__ import annotations

import re

import numpy as np
from instructions import Operation, Step, elements, instruction
from lanes import TYPES, Array, Mask, Source
from races import Fault

# How long a value is kept in which cache, and who else may write it, is nothing that the interpreter could show.
HINTS = ("nc", "ca", "cg", "cs", "cv", "lu", "wb", "wt", "relaxed", "volatile", "weak", "gpu", "cta", "sys")
HINTS += ("L1::evict_first", "L1::evict_last", "L1::evict_normal", "L1::no_allocate", "L1::evict_unchanged")
HINTS += ("L2::64B", "L2::128B", "L2::256B", "L2::evict_first", "L2::evict_last", "L2::evict_normal")

_ADDRESS = re.compile(r"\[\s*([%\w$#]+)\s*(?:\+\s*(-?\w+))?\s*\]")


def address(op: Operation, operand: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(operand)
    if match is None:
        raise op.unknown()
    return match[1], int(match[2] or "0", 0)


def addresses(op: Operation, name: str, offset: int) -> Source:
    if name.isdigit():
        raise op.unknown()
    register = op.function.registers.get(name)
    source = op.lanes.source(op.function, name, "s64" if register is None or register.endswith("64") else "u32")
    return lambda: np.broadcast_to(np.asarray(source(), np.int64) + offset, op.lanes.count)


@instruction("ld", "st")
def load_or_store(op: Operation) -> Step:
    spaces = ("global", "shared", "param")
    op.allow("v2", "v4", "v8", "shared::cta", *spaces, *HINTS)
    space = next((modifier for modifier in op.modifiers if modifier in spaces), "generic")
    if op.has("shared::cta"):
        space = "shared"
    if space == "param":
        return _call_parameter(op) if _is_call_parameter(op) else _launch_parameter(op)
    return _load(op, space) if op.name == "ld" else _store(op, space)


def cells(op: Operation, space: str, name: str, offset: int, count: int, writes: bool) -> tuple[Step, Source]:
    """For some lanes: where in the window of vectors their accesses go, checked; and that window."""
    (kind,) = op.types
    dtype, lanes = TYPES[f"b{TYPES[kind].itemsize * 8}" if kind != "bf16" else "b16"], op.lanes
    width = dtype.itemsize * count
    where = addresses(op, name, offset)

    def places(mask: Mask) -> Array:
        every = where()
        chosen = every if mask is None else every[mask]
        access = lanes.access(op.instruction, writes, mask)
        if space == "shared":
            blocks = lanes.block if mask is None else lanes.block[mask]
            return lanes.shared.places(chosen, width, blocks.astype(np.int64), access) // width
        return lanes.memory.places(chosen, width, access) // width

    def window() -> Array:
        bytes_ = lanes.shared.window if space == "shared" else lanes.memory.window
        return bytes_.view(dtype).reshape(-1, count)

    return places, window


def _load(op: Operation, space: str) -> Step:
    names = elements(op.operands[0])
    (kind,) = op.types
    bits = f"{kind[0] if kind[0] == 's' else 'b'}{8 * (2 if kind == 'bf16' else TYPES[kind].itemsize)}"
    sinks = [op.sink(bits, name) for name in names]
    places, window = cells(op, space, *address(op, op.operands[1]), len(names), writes=False)
    full = np.zeros((op.lanes.count, len(names)), TYPES[bits])

    def step(mask: Mask) -> None:
        loaded = window()[places(mask)].view(TYPES[bits])
        if mask is None:
            values = loaded
        else:
            full[mask] = loaded
            values = full
        for i, sink in enumerate(sinks):
            sink(values[:, i], mask)

    return step


def _store(op: Operation, space: str) -> Step:
    names = elements(op.operands[1])
    (kind,) = op.types
    bits = f"b{8 * (2 if kind == 'bf16' else TYPES[kind].itemsize)}"
    sources = [op.lanes.source(op.function, name, bits) for name in names]
    places, window = cells(op, space, *address(op, op.operands[0]), len(names), writes=True)

    def step(mask: Mask) -> None:
        values = np.empty((op.lanes.count, len(names)), TYPES[bits])
        for i, source in enumerate(sources):
            values[:, i] = source()
        if mask is not None:
            values = values[mask]
        at, cells = places(mask), window()
        cells[at] = values
        lost = (cells[at] != values).any(axis=1)
        if lost.any():
            raise Fault(f"race: different values stored at one place, {int(lost.sum())} lanes: {op.instruction}")

    return step


# ----------------------------------------------------------------------------------------------------- parameters


def _launch_parameter(op: Operation) -> Step:
    """From the bytes that the launch was given: a struct may be read at an offset that lanes compute."""
    op.allow("param", "v2", "v4")
    names = elements(op.operands[0])
    (kind,) = op.types
    dtype, lanes = TYPES[kind], op.lanes
    width = dtype.itemsize * len(names)
    where = addresses(op, *address(op, op.operands[1]))
    sinks = [op.sink(kind, name) for name in names]
    if op.name == "st":
        raise op.unknown()

    def step(mask: Mask) -> None:
        at = where() if mask is None else np.where(mask, where(), 0)
        if ((at < 0) | (at + width > len(lanes.parameters))).any():
            raise Fault(f"read outside the parameters of the launch: {op.instruction}")
        if (at % width).any():
            raise Fault(f"misaligned read of a parameter: {op.instruction}")
        values = lanes.parameters[at[:, None] + np.arange(width)].view(dtype)
        for i, sink in enumerate(sinks):
            sink(values[:, i], mask)

    return step


def _is_call_parameter(op: Operation) -> bool:
    name, _ = address(op, op.operands[0 if op.name == "st" else 1])
    return name not in op.function.registers and name not in op.lanes.parameter_names


def call_parameter(op: Operation, name: str) -> Array:
    """What a caller passes to a function or gets back: one number per lane."""
    key = f"{op.function.name}:{name}"
    return op.lanes.call_parameters.setdefault(key, np.zeros(op.lanes.count, np.uint64))


def _call_parameter(op: Operation) -> Step:
    op.allow("param")
    (kind,) = op.types
    name, offset = address(op, op.operands[0 if op.name == "st" else 1])
    if offset:
        raise op.unknown()
    held = call_parameter(op, name)
    low = held.view(TYPES[kind]).reshape(op.lanes.count, -1)[:, 0]
    if op.name == "ld":
        sink = op.sink(kind)
        return lambda mask: sink(low, mask)
    source = op.source(1, kind)

    def step(mask: Mask) -> None:
        np.copyto(low, source(), where=True if mask is None else mask)

    return step
