"""Who has touched each byte since the last barrier: the order of threads is the hardware's, not the interpreter's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ptx_text import Instruction

# Which threads have accessed a cell: none, thread t (t + 1), several threads of block b (-2 - b), of several blocks.
NOBODY, SEVERAL = 0, -1


class Fault(Exception):
    """What a kernel did that it must not do."""


@dataclass(frozen=True)
class Access:
    """One memory instruction, executed by ``threads`` (numbers in the grid) that have passed ``epochs`` barriers."""

    instruction: Instruction
    writes: bool
    threads: NDArray[np.int32]
    epochs: NDArray[np.int32]

    @property
    def verb(self) -> str:
        return "write" if self.writes else "read"


class Races:
    """Reports two threads that touch a cell with one of them writing and no barrier between the two.

    A barrier orders what the threads of its block do; nothing orders the blocks of a grid. A cell has ``cell`` bytes,
    no more than the narrowest access has. Lanes that store to one cell in the same instruction are the store's affair:
    compilers let several lanes store one value on purpose.
    """

    def __init__(self, size: int, block_threads: int, cell: int = 1) -> None:
        self.cell = cell
        self.block_threads = block_threads
        cells = -(-size // cell)
        # np.zeros touches no memory before it is used.
        self.readers, self.writers = np.zeros(cells, np.int32), np.zeros(cells, np.int32)
        self.read_epochs, self.write_epochs = np.zeros(cells, np.int32), np.zeros(cells, np.int32)
        self.read_by, self.written_by = np.zeros(cells, np.int16), np.zeros(cells, np.int16)
        self.instructions: list[Instruction] = []

    def check(self, places: NDArray[np.int64], width: int, access: Access, space: str) -> None:
        """``places``: the first byte that each thread touches."""
        cells = (places // self.cell)[:, None] + np.arange(max(1, width // self.cell))
        me, epochs = access.threads[:, None] + np.int32(1), access.epochs[:, None]
        self._compare(self.writers, self.write_epochs, self.written_by, "written", cells, me, epochs, access, space)
        if access.writes:
            self._compare(self.readers, self.read_epochs, self.read_by, "read", cells, me, epochs, access, space)
            self.writers[cells], self.write_epochs[cells] = me, epochs
            self.written_by[cells] = self._number(access.instruction)
        else:
            self._note_readers(cells, me, epochs)
            self.read_epochs[cells] = epochs
            self.read_by[cells] = self._number(access.instruction)

    def _number(self, instruction: Instruction) -> int:
        for number in range(len(self.instructions) - 1, -1, -1):
            if self.instructions[number] is instruction:
                return number
        self.instructions.append(instruction)
        return len(self.instructions) - 1

    def _blocks(self, owners: NDArray[np.int32]) -> NDArray[np.int32]:
        return np.where(owners > 0, (owners - 1) // self.block_threads, -2 - owners)

    def _compare(
        self,
        owners: NDArray[np.int32],
        owner_epochs: NDArray[np.int32],
        by: NDArray[np.int16],
        done: str,
        cells: NDArray[np.int64],
        me: NDArray[np.int32],
        epochs: NDArray[np.int32],
        access: Access,
        space: str,
    ) -> None:
        before = owners[cells]
        others = (before != NOBODY) & (before != me)
        if not others.any():
            return
        same_block = (before != SEVERAL) & (self._blocks(before) == (me - 1) // self.block_threads)
        races = others & ~(same_block & (owner_epochs[cells] < epochs))
        if races.any():
            row, column = (int(found[0]) for found in np.nonzero(races))
            owner = int(before[row, column])
            who = self._thread(owner - 1) if owner > 0 else "several threads"
            raise Fault(
                f"race in {space} memory, {int(races.any(axis=1).sum())} lanes: {self._thread(int(me[row, 0]) - 1)} "
                f"at: {access.instruction} -- already {done} by {who} without a barrier between, at: "
                f"{self.instructions[int(by[cells[row, column]])]}"
            )

    def _thread(self, thread: int) -> str:
        return f"block {thread // self.block_threads} thread {thread % self.block_threads}"

    def _note_readers(self, cells: NDArray[np.int64], me: NDArray[np.int32], epochs: NDArray[np.int32]) -> None:
        before = self.readers[cells]
        block = (me - 1) // self.block_threads
        same_block = (before != SEVERAL) & (self._blocks(before) == block)
        forgotten = (before == NOBODY) | (same_block & (self.read_epochs[cells] < epochs))
        now = np.where(forgotten | (before == me), me, np.where(same_block, -2 - block, SEVERAL))
        self.readers[cells] = now
        left = self.readers[cells]
        shared = left != now
        if shared.any():  # lanes that read one cell in one instruction
            alike = (left != SEVERAL) & (now != SEVERAL) & (self._blocks(left) == self._blocks(now))
            self.readers[cells[shared]] = np.where(alike, -2 - block, SEVERAL)[shared]
            # Of several blocks, the last assignment may have been one within a block.
            apart = shared & ~alike
            self.readers[cells[apart]] = SEVERAL
