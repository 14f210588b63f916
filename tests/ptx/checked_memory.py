"""The memory of a launch, checked: allocations of the host for global memory, and the shared memory of its blocks.

Global memory is the memory of the tensors themselves. Every access has to lie inside one allocation that the launch
was given and be aligned to its width. Shared memory must be written before it is read. Both are watched for races.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from races import Access, Fault, Races

Places = NDArray[np.int64]

# Bytes: a multiple of every vector's width, so that a window can be seen as an array of vectors.
ALIGNMENT = 64


class Allocation(NamedTuple):
    name: str
    address: int
    size: int  # bytes


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


class GlobalMemory:
    """The allocations of a launch. Those that overlap (a slot of a batch and the batch) are one."""

    def __init__(self, allocations: Iterable[Allocation], block_threads: int, cell: int = 1) -> None:
        spans: list[Allocation] = []
        for name, address, size in sorted(allocations, key=lambda each: (each.address, -each.size)):
            if spans and address < spans[-1].address + spans[-1].size:
                first = spans.pop()
                joined = first.name if name in first.name.split(" and ") else f"{first.name} and {name}"
                end = max(first.address + first.size, address + size)
                spans.append(Allocation(joined, first.address, end - first.address))
            elif size > 0:
                spans.append(Allocation(name, address, size))
        self.names = [span.name for span in spans]
        self.starts = np.array([span.address for span in spans], dtype=np.int64)
        self.ends = np.array([span.address + span.size for span in spans], dtype=np.int64)
        # One array over all between the first and the last of them: what has been checked is touched, nothing else.
        self.base = spans[0].address // ALIGNMENT * ALIGNMENT if spans else 0
        size = aligned(int(self.ends[-1]) - self.base) if spans else 0
        self.window: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.base or 64))
        # Where the allocations lie when they are put one after another, each as aligned as it is in memory.
        sizes = [aligned(span.address % ALIGNMENT + span.size) for span in spans]
        self.compact = np.cumsum([0, *sizes[:-1]])[: len(spans)] - self.starts // ALIGNMENT * ALIGNMENT
        self.races = Races(sum(sizes), block_threads, cell)

    def places(self, addresses: Places, width: int, access: Access) -> Places:
        """Positions in ``window``, once every access is known to be allowed."""
        misaligned = addresses % width != 0
        if misaligned.any():
            name, lanes = self._name_of(int(addresses[misaligned][0])), plural(int(misaligned.sum()), "lane")
            raise Fault(f"{width}-byte {access.verb} at a misaligned address in {name}, {lanes}: {access.instruction}")
        if len(self.starts) == 0:
            raise Fault(f"{access.verb} where nothing is allocated: {access.instruction}")
        k = np.searchsorted(self.starts, addresses, side="right") - 1
        outside = (k < 0) | (addresses + width > self.ends[k])
        if outside.any():
            raise Fault(self._outside(addresses[outside], width, access))
        self.races.check(addresses + self.compact[k], width, access, "global")
        return addresses - self.base

    def _name_of(self, address: int) -> str:
        k = int(np.searchsorted(self.starts, address, side="right")) - 1
        return self.names[k] if k >= 0 and address < self.ends[k] else "no allocation"

    def _outside(self, addresses: Places, width: int, access: Access) -> str:
        k = np.searchsorted(self.starts, addresses, side="right") - 1
        lanes = plural(len(addresses), "lane")
        if (k < 0).all():
            short = plural(int(self.starts[0] - addresses.min()), "byte")
            return f"{access.verb} {short} before the start of {self.names[0]}, {lanes}: {access.instruction}"
        past = addresses + width - self.ends[k]
        worst = int(np.argmax(np.where(k < 0, -1, past)))
        name = self.names[int(k[worst])]
        return f"{access.verb} {plural(int(past[worst]), 'byte')} past the end of {name}, {lanes}: {access.instruction}"


class SharedMemory:
    """The shared memory of blocks that run side by side, ``size`` bytes each."""

    def __init__(self, size: int, blocks: int, block_threads: int) -> None:
        self.size = size
        self.stride = aligned(size)
        self.block_threads = block_threads
        self.window: NDArray[np.uint8] = np.zeros(self.stride * blocks, np.uint8)
        self.written = np.zeros(self.stride * blocks, np.bool_)
        self.races = Races(self.stride * blocks, block_threads)

    def places(self, addresses: Places, width: int, blocks: NDArray[Any], access: Access) -> Places:
        """Positions in ``window``; ``blocks``: of each thread, counted from the first that runs here."""
        what = f"{access.verb} {{}} shared memory, {{}}: {access.instruction}"
        outside = (addresses < 0) | (addresses + width > self.size)
        if outside.any():
            past = plural(int(addresses[outside].max()) + width - self.size, "byte")
            raise Fault(what.format(f"{past} past the end of", plural(int(outside.sum()), "lane")))
        misaligned = addresses % width != 0
        if misaligned.any():
            lanes = plural(int(misaligned.sum()), "lane")
            raise Fault(what.format(f"of {width} bytes at a misaligned address in", lanes))
        places = addresses + blocks * self.stride
        each = places[:, None] + np.arange(width)
        if access.writes:
            self.written[each] = True
        elif not self.written[each].all():
            lanes = plural(int((~self.written[each].all(axis=1)).sum()), "lane")
            raise Fault(what.format("of uninitialised values in", lanes))
        self.races.check(places, width, access, "shared")
        return places
