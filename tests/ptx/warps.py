"""Instructions that threads execute together: barriers, shuffles, and matrices that are spread over a warp.

A thread that reaches one waits for the others. Where they never come, that is a fault: on a GPU the threads that wait
would do so for ever, or read values that were never written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from instructions import Operation, Step, elements, instruction
from lanes import Array, Lanes, Mask
from memory_access import address, addresses
from numpy.typing import NDArray
from races import WARP, Fault

Chosen = NDArray[np.bool_]


class Waiting(NamedTuple):
    """Lanes that stay where they are until others come."""

    mask: Chosen


class Waits(NamedTuple):
    """``complete``: the lanes that have all their partners, None if all have; ``fault``: of lanes left alone."""

    complete: Callable[[Chosen], Chosen | None]
    fault: Callable[[Mask], str]


WHO_WAITS: dict[str, Callable[[Operation], Waits]] = {}


def _complete(chosen: Chosen, alone: Chosen) -> Chosen | None:
    return chosen & ~alone if alone.any() else None


def _waits_for_block(op: Operation) -> Waits:
    lanes = op.lanes

    def complete(mask: Chosen) -> Chosen | None:
        here = mask.reshape(lanes.blocks, lanes.threads)
        return _complete(mask, np.repeat(here.any(axis=1) & ~here.all(axis=1), lanes.threads))

    def fault(mask: Mask) -> str:
        assert mask is not None
        block = int(np.argmax(mask)) // lanes.threads
        count = int(mask.reshape(lanes.blocks, -1)[block].sum())
        number = int(lanes.grid_block[block * lanes.threads])
        return f"barrier that {count} of {lanes.threads} threads of block {number} reach: {op.instruction}"

    return Waits(complete, fault)


def _waits_for_warp(op: Operation) -> Waits:
    lanes = op.lanes
    source = op.source(4, "u32") if op.name == "shfl" else (lambda: np.uint32(0xFFFFFFFF))

    def complete(mask: Chosen) -> Chosen | None:
        return _complete(mask, mask & (np.broadcast_to(source(), lanes.count) & ~_present(lanes, mask) != 0))

    def fault(mask: Mask) -> str:
        assert mask is not None
        return f"{op.name} that lanes named in its mask never reach, {int(mask.sum())} lanes wait: {op.instruction}"

    return Waits(complete, fault)


WHO_WAITS["bar"] = WHO_WAITS["barrier"] = lambda op: _waits_for_warp(op) if op.has("warp") else _waits_for_block(op)
WHO_WAITS["shfl"] = WHO_WAITS["ldmatrix"] = WHO_WAITS["stmatrix"] = _waits_for_warp


def _present(lanes: Lanes, mask: Chosen) -> Array:
    """For every lane the set of those of its warp that are there, as a mask."""
    bits = (mask.astype(np.uint32) << (lanes.thread % np.uint32(WARP))).reshape(lanes.blocks, -1)
    starts = np.arange(0, lanes.threads, WARP)
    warps = np.bitwise_or.reduceat(bits, starts, axis=1)
    return np.repeat(warps, np.diff([*starts, lanes.threads]), axis=1).ravel()


@instruction("bar", "barrier")
def barrier(op: Operation) -> Step:
    """bar.sync of the whole block, or bar.warp.sync of a whole warp: nothing here waits for part of either."""
    epochs = op.lanes.warp_epochs if op.has("warp") else op.lanes.epochs
    op.allow("sync", *(["warp"] if op.has("warp") else ["cta", "aligned"]))
    if op.operands not in ([("-1",), ("0xffffffff",)] if op.has("warp") else [("0",)]):
        raise op.unknown()
    return lambda mask: np.add(epochs, 1, out=epochs, where=True if mask is None else mask)


@instruction("shfl")
def shuffle(op: Operation) -> Step:
    op.allow("sync", "up", "down", "bfly", "idx")
    mode = op.modifiers[1]
    (kind,) = op.types
    target, *predicate = [name.strip() for name in op.operands[0].split("|")]
    sink = op.sink(kind, target)
    sink_inside = op.sink("pred", predicate[0]) if predicate else None
    value, by, clamp, members = (op.source(i, "u32") for i in (1, 2, 3, 4))
    lanes = op.lanes
    lane = (lanes.thread % WARP).astype(np.int64)

    def step(mask: Mask) -> None:
        b, c = np.asarray(by(), np.int64) & 31, np.asarray(clamp(), np.int64)
        segment, limit = (c >> 8) & 31, c & 31
        first = lane & segment
        last = first | (limit & ~segment)
        place = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | (b & ~segment)}[mode]
        inside = place >= last if mode == "up" else place <= last
        place = np.where(inside, place, lane)
        named = np.broadcast_to(members(), lanes.count)
        if mask is not None or not (named == 0xFFFFFFFF).all() or lanes.threads % WARP:
            here = np.ones(lanes.count, bool) if mask is None else mask
            allowed = named & _present(lanes, here)
            lost = here & ((allowed >> place.astype(np.uint32) & 1 == 0) | (named >> lane.astype(np.uint32) & 1 == 0))
            if lost.any():
                raise Fault(f"shuffle with lanes that take no part, {int(lost.sum())} lanes: {op.instruction}")
        place = np.minimum(lanes.warp_start + place, lanes.count - 1)  # of lanes that take no part
        sink(np.broadcast_to(value(), lanes.count)[place], mask)
        if sink_inside is not None:
            sink_inside(inside, mask)

    return step


@instruction("ldmatrix", "stmatrix")
def matrix(op: Operation) -> Step:
    """Matrices of 8 x 8 halves: lane 8 i + r gives the address of row r of matrix i.

    Lane t holds two neighbours of row t / 4 of each, or with .trans of column t / 4.
    """
    op.allow("sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta")
    loads, lanes = op.name == "ldmatrix", op.lanes
    names = elements(op.operands[0 if loads else 1])
    where = addresses(op, *address(op, op.operands[1 if loads else 0]))
    lane = (lanes.thread % WARP).astype(np.int64)
    rows, columns = [lane // 4] * 2, [lane % 4 * 2, lane % 4 * 2 + 1]
    if op.has("trans"):
        rows, columns = columns, rows
    sinks = [op.sink("b32", name) for name in names] if loads else []
    sources = [] if loads else [lanes.source(op.function, name, "b32") for name in names]

    def places(mask: Mask, number: int, half: int) -> Array:
        chosen = np.arange(lanes.count) if mask is None else np.flatnonzero(mask)
        starts = where()[lanes.warp_start[chosen] + 8 * number + rows[half][chosen]]
        if (starts % 16).any():
            raise Fault(f"row of a matrix at a misaligned address in shared memory: {op.instruction}")
        access = lanes.access(op.instruction, not loads, mask)
        blocks = lanes.block[chosen].astype(np.int64)
        return lanes.shared.places(starts + 2 * columns[half][chosen], 2, blocks, access) // 2

    def step(mask: Mask) -> None:
        window = lanes.shared.window.view(np.uint16)
        chosen = slice(None) if mask is None else mask
        for i in range(len(names)):
            halves = [places(mask, i, half) for half in (0, 1)]
            if loads:
                both = np.zeros(lanes.count, np.uint32)
                both[chosen] = window[halves[0]].astype(np.uint32) | window[halves[1]].astype(np.uint32) << np.uint32(
                    16
                )
                sinks[i](both, mask)
            else:
                value = np.broadcast_to(sources[i](), lanes.count)[chosen]
                window[halves[0]], window[halves[1]] = value & np.uint32(0xFFFF), value >> np.uint32(16)

    return step
