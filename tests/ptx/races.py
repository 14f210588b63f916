"""Who has touched each byte since the last barrier: the order of threads is the hardware's, not the interpreter's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ptx_text import Instruction

# Which threads have accessed a cell: none, thread t (t + 1), several threads of block b (-2 - b), of several blocks, or
# several threads of one warp (OF_WARP - w, with the warps counted over the grid).
NOBODY, SEVERAL, OF_WARP = 0, -1, -(2**30)
WARP = 32


class Fault(Exception):
    """What a kernel did that it must not do."""


@dataclass(frozen=True)
class Access:
    """One memory instruction, executed by ``threads`` (numbers in the grid).

    They have passed ``epochs`` barriers of their block, and ``warp_epochs`` of their warp.
    """

    instruction: Instruction
    writes: bool
    threads: NDArray[np.int32]
    epochs: NDArray[np.int32]
    warp_epochs: NDArray[np.int32]

    @property
    def verb(self) -> str:
        return "write" if self.writes else "read"


class _Last:
    """The last accesses of one kind: by whom, after how many barriers, and by which instruction."""

    def __init__(self, cells: int) -> None:
        # np.zeros touches no memory before it is used.
        self.owners, self.epochs, self.warp_epochs = (np.zeros(cells, np.int32) for _ in range(3))
        self.by = np.zeros(cells, np.int16)


class Races:
    """Reports two threads that touch a cell with one of them writing and no barrier between the two.

    A barrier orders what the threads of its block do, or of its warp; nothing orders the blocks of a grid. A cell has
    ``cell`` bytes, no more than the narrowest access has. Lanes that store to one cell in the same instruction are the
    store's affair: compilers let several lanes store one value on purpose.
    """

    def __init__(self, size: int, block_threads: int, cell: int = 1) -> None:
        self.cell = cell
        self.block_threads = block_threads
        self.block_warps = -(-block_threads // WARP)
        cells = -(-size // cell)
        self.reads, self.writes = _Last(cells), _Last(cells)
        self.instructions: list[Instruction] = []

    def check(self, places: NDArray[np.int64], width: int, access: Access, space: str) -> None:
        """``places``: the first byte that each thread touches."""
        cells = (places // self.cell)[:, None] + np.arange(max(1, width // self.cell))
        me = access.threads[:, None] + np.int32(1)
        self._compare(self.writes, "written", cells, me, access, space)
        if access.writes:
            self._compare(self.reads, "read", cells, me, access, space)
            self.writes.owners[cells] = me
        else:
            self._note_readers(cells, me, access)
        last = self.writes if access.writes else self.reads
        last.epochs[cells], last.warp_epochs[cells] = access.epochs[:, None], access.warp_epochs[:, None]
        last.by[cells] = self._number(access.instruction)

    def _number(self, instruction: Instruction) -> int:
        for number in range(len(self.instructions) - 1, -1, -1):
            if self.instructions[number] is instruction:
                return number
        self.instructions.append(instruction)
        return len(self.instructions) - 1

    def _warps(self, owners: NDArray[np.int32]) -> NDArray[np.int32]:
        """-1: of no single warp."""
        block, thread = np.divmod(owners - 1, self.block_threads)
        of_group = np.where(owners <= OF_WARP, OF_WARP - owners, -1)
        return np.where(owners > 0, block * self.block_warps + thread // WARP, of_group)

    def _blocks(self, owners: NDArray[np.int32]) -> NDArray[np.int32]:
        of_group = np.where(owners <= OF_WARP, (OF_WARP - owners) // self.block_warps, -2 - owners)
        return np.where(owners > 0, (owners - 1) // self.block_threads, of_group)

    def _alike(self, one: NDArray[np.int32], other: NDArray[np.int32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether both are of one warp, and of one block; NOBODY is of none."""
        warp = self._warps(one)
        block = (one != SEVERAL) & (other != SEVERAL) & (self._blocks(one) == self._blocks(other))
        return (warp == self._warps(other)) & (warp >= 0), block

    def _compare(
        self, last: _Last, done: str, cells: NDArray[np.int64], me: NDArray[np.int32], access: Access, space: str
    ) -> None:
        before = last.owners[cells]
        others = (before != NOBODY) & (before != me)
        if not others.any():
            return
        races = others & ~self._ordered(last, cells, access, *self._alike(before, me))
        if races.any():
            row, column = (int(found[0]) for found in np.nonzero(races))
            owner = int(before[row, column])
            who = self._thread(owner - 1) if owner > 0 else "several threads"
            raise Fault(
                f"race in {space} memory, {int(races.any(axis=1).sum())} lanes: {self._thread(int(me[row, 0]) - 1)} "
                f"at: {access.instruction} -- already {done} by {who} without a barrier between, at: "
                f"{self.instructions[int(last.by[cells[row, column]])]}"
            )

    def _ordered(
        self,
        last: _Last,
        cells: NDArray[np.int64],
        access: Access,
        same_warp: NDArray[np.bool_],
        same_block: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Whether a barrier lies between. All lanes of a warp, as all of a block, have passed as many of theirs."""
        in_block = same_block & (last.epochs[cells] < access.epochs[:, None])
        return in_block | (same_warp & (last.warp_epochs[cells] < access.warp_epochs[:, None]))

    def _thread(self, thread: int) -> str:
        return f"block {thread // self.block_threads} thread {thread % self.block_threads}"

    def _note_readers(self, cells: NDArray[np.int64], me: NDArray[np.int32], access: Access) -> None:
        readers = self.reads.owners
        before = readers[cells]
        of_warp, of_block = OF_WARP - self._warps(me), -2 - self._blocks(me)
        same_warp, same_block = self._alike(before, me)
        forgotten = (before == NOBODY) | self._ordered(self.reads, cells, access, same_warp, same_block)
        group = np.where(same_warp, of_warp, np.where(same_block, of_block, SEVERAL))
        now = np.where(forgotten | (before == me), me, group)
        readers[cells] = now
        left = readers[cells]
        shared = left != now
        if shared.any():  # lanes that read one cell in one instruction
            same_warp, same_block = self._alike(left, now)
            # The widest group last: of several lanes, the last assignment stands.
            for group, lanes in ((of_warp, same_warp), (of_block, same_block & ~same_warp), (SEVERAL, ~same_block)):
                here = shared & lanes
                readers[cells[here]] = np.broadcast_to(group, cells.shape)[here]
