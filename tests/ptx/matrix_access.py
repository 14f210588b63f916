"""ldmatrix and stmatrix: 8 x 8 matrices of 16-bit elements, spread over a warp. Triton changes layouts with them."""

from __future__ import annotations

import numpy as np
from instructions import Operation, Step, check_warp, elements, instruction
from lanes import WARP, Array, Mask
from memory_access import address, addresses
from races import Access, Fault


@instruction("ldmatrix", "stmatrix")
def matrix(op: Operation) -> Step:
    """Lane 8 i + r gives the address of row r of matrix i; lane t holds two elements of each, of row t / 4.

    With .trans they are of column t / 4.
    """
    op.allow("sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta")
    loads, lanes = op.name == "ldmatrix", op.lanes
    names = elements(op.operands[0 if loads else 1])
    where = addresses(op, *address(op, op.operands[1 if loads else 0]))
    lane = (lanes.thread % WARP).astype(np.int64)
    # (row, column) of the first and of the second element of a lane, counted in elements
    rows, columns = (np.stack([lane // 4, lane // 4]), np.stack([lane % 4 * 2, lane % 4 * 2 + 1]))
    if op.has("trans"):
        rows, columns = columns, rows
    sinks = [op.sink("b32", name) for name in names] if loads else []
    sources = [] if loads else [lanes.source(op.function, name, "b32") for name in names]

    def places(mask: Mask, number: int, element: int) -> Array:
        starts = where()[lanes.warp_start + 8 * number + rows[element]]
        if (starts % 16).any():
            raise Fault(f"a row of a matrix at a misaligned address: {op.instruction}")
        access = Access(op.instruction, not loads, lanes.grid_threads(None), lanes.epochs)
        at = starts + 2 * columns[element]
        return lanes.shared.places(at, 2, lanes.block.astype(np.int64), access) // 2

    def step(mask: Mask) -> None:
        if mask is not None:
            check_warp(op, mask, np.full(lanes.count, 0xFFFFFFFF, np.uint32), lane)
            raise Fault(f"in divergent code, which the interpreter does not have: {op.instruction}")
        window = lanes.shared.window.view(np.uint16)
        for i in range(len(names)):
            halves = [places(mask, i, element) for element in (0, 1)]
            if loads:
                low, high = (window[each].astype(np.uint32) for each in halves)
                sinks[i](low | high << np.uint32(16), mask)
            else:
                value = np.broadcast_to(sources[i](), lanes.count)
                window[halves[0]], window[halves[1]] = value & np.uint32(0xFFFF), value >> np.uint32(16)

    return step
