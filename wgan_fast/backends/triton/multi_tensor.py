"""Many tensors in one launch: a table on the device says where each program finds its chunk.

One row per program, int64: [elements, ordinal of the tensor, address of the chunk in every list of tensors].
Chunks have ``block`` elements and begin on 16-byte boundaries. ``elements`` is positive for a full chunk on
16-byte boundaries in every list, which the kernel moves in 128-bit accesses. The rest, before the first full
chunk, after the last, and in lists that are not aligned alike, is cut into pieces of up to one element per
thread of a program, which the kernel masks; ``elements`` is negative there. (A masked chunk of ``block`` elements
would decide the registers of the whole kernel, and pass through shared memory between its loads and stores.)

Tables are kept by address and size, because building one takes longer than the launch. A CUDA graph replays
the address of its table, so one that is used in a capture is never freed. A table for addresses that a capture
is the first to see is copied by the graph itself, at every replay, from pinned memory set aside before.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from wgan_fast.backends.triton.launching import ALIGNMENT, current_stream, is_capturing
from wgan_fast.backends.triton.rules import DTYPES, WIDE
from wgan_fast.dtypes import PLAIN_TYPES, dtype_of
from wgan_fast.memory_layout import lie_alike

Lists = Sequence[Sequence[Tensor]]

_captured: list[Tensor] = []


# ------------------------------------------------------------------------------------------------ on the host


def all_lie_alike(lists: Lists) -> bool:
    """True in the usual case: contiguous tensors of one dtype on one device; asks less than `kind_of`."""
    tensors = list(itertools.chain.from_iterable(lists))
    dtypes = set(map(dtype_of, tensors))
    return (
        len(dtypes) == 1
        and dtypes <= DTYPES.keys()
        and PLAIN_TYPES.issuperset(map(type, tensors))
        and all(map(Tensor.is_contiguous, tensors))
        and len(set(map(Tensor.get_device, tensors))) == 1
    )


def kind_of(tensors: Sequence[Tensor]) -> tuple[torch.device, torch.dtype] | None:
    """What one launch has in common; None where a kernel cannot walk over all as over flat blocks."""
    first = tensors[0]
    return (first.device, first.dtype) if first.dtype in DTYPES and lie_alike(tensors) else None


def split(lists: Lists, kinds: Sequence[Hashable]) -> tuple[list[Lists], list[int]]:
    """The lists once per kind, with the tensors of that kind; and the positions of those whose kind is None."""
    parts: list[Lists] = []
    for kind in dict.fromkeys(kinds):
        if kind is not None:
            members = [other == kind for other in kinds]
            parts.append([list(itertools.compress(column, members)) for column in lists])
    return parts, [i for i, kind in enumerate(kinds) if kind is None]


def chunks_of(lists: Lists, block: int, warps: int) -> tuple[Tensor, tuple[Any, ...]]:
    """The table of these tensors, (programs, 2 + lists), on their device; of one dtype, lying alike.

    With it the constants that follow from it, which a kernel has last: DTYPE, WIDE, PIECE and BLOCK.
    """
    first = lists[0][0]
    dtype, piece = first.dtype, min(block, 32 * warps)
    sizes = tuple(map(Tensor.numel, lists[0]))
    addresses = tuple(map(Tensor.data_ptr, itertools.chain.from_iterable(lists)))

    def build() -> Tensor:
        columns = torch.tensor(addresses).view(len(lists), -1).T
        return chunk_rows(columns, torch.tensor(sizes), first.element_size(), block, piece)

    table = _kept((dtype, block, piece, sizes, addresses), first.device, build)
    return table, (DTYPES[dtype], WIDE[dtype], piece, block)


def address_table(tensors: Sequence[Tensor]) -> Tensor:
    """The addresses of these tensors, int64, on their device."""
    addresses = tuple(map(Tensor.data_ptr, tensors))
    return _kept(addresses, tensors[0].device, lambda: torch.tensor(addresses))


def chunk_rows(addresses: Tensor, sizes: Tensor, element_size: int, block: int, piece: int) -> Tensor:
    """The rows of the table, from the addresses (tensors, lists) and sizes (tensors,) of all tensors."""
    offsets = addresses % ALIGNMENT
    alike = (offsets == offsets[:, :1]).all(1)
    lead = torch.where(alike, offsets[:, 0] // element_size, 0)
    chunks = torch.where(sizes > 0, (lead + sizes + block - 1) // block, 0)
    ordinal = torch.repeat_interleave(torch.arange(len(sizes)), chunks)
    position = torch.arange(len(ordinal)) - (chunks.cumsum(0) - chunks)[ordinal]
    start = position * block - lead[ordinal]
    begin = start.clamp_min(0)
    elements = torch.minimum(start + block, sizes[ordinal]) - begin
    full = alike[ordinal] & (elements == block)
    pieces = torch.where(full, 1, (elements + piece - 1) // piece)
    chunk = torch.repeat_interleave(torch.arange(len(pieces)), pieces)
    done = piece * (torch.arange(len(chunk)) - (pieces.cumsum(0) - pieces)[chunk])
    full, ordinal, begin = full[chunk], ordinal[chunk], begin[chunk] + done
    elements = torch.where(full, block, (elements[chunk] - done).clamp_max(piece))
    return torch.cat(
        [
            torch.where(full, elements, -elements).unsqueeze(1),
            ordinal.unsqueeze(1),
            addresses[ordinal] + (begin * element_size).unsqueeze(1),
        ],
        dim=1,
    )


class PinnedReserve:
    """Pinned memory for the tables that a capture builds: set aside before, as a capture cannot allocate any.

    Memory that has been taken is never returned: a graph reads it at every replay, and its end is not known.
    """

    def __init__(self, tables: int = 8, least: int = 1 << 17) -> None:
        self.tables, self.least = tables, least
        self.free = torch.empty(0, dtype=torch.int64)

    def refill(self, elements: int, pin: bool) -> None:
        """Outside a capture: make room for several tables of ``elements`` numbers."""
        if self.free.numel() < (wanted := max(self.tables * elements, self.least)) // 2:
            self.free = torch.empty(wanted, dtype=torch.int64, pin_memory=pin)

    def hold(self, rows: Tensor) -> Tensor:
        """A copy of ``rows`` in the reserve."""
        if rows.numel() > self.free.numel():
            raise RuntimeError(
                "a CUDA graph is being captured and there is no room for the addresses of tensors that have not been "
                "seen before: run the operation once on the same tensors (the same gradients too) before the capture"
            )
        taken, self.free = self.free[: rows.numel()], self.free[rows.numel() :]
        return taken.view(rows.shape).copy_(rows)


_reserve = PinnedReserve()


@functools.lru_cache(maxsize=64)
def _tables(device: torch.device, contents: tuple[object, ...]) -> dict[int, Tensor]:
    """The tables of these contents, by stream, empty at first.

    On one stream the order of the work protects a table from being read before it is written, and its memory from
    being reused too early.
    """
    return {}


def _kept(contents: tuple[object, ...], device: torch.device, build: Callable[[], Tensor]) -> Tensor:
    """The table of these contents on ``device``, built only where there is none for the current stream."""
    by_stream = _tables(device, contents)
    if is_capturing(device):
        return _captured_table(by_stream, device, build)
    stream = current_stream(device)
    if stream not in by_stream:
        rows = build()
        on_gpu = device.index is not None
        _reserve.refill(rows.numel(), on_gpu)
        by_stream[stream] = rows.pin_memory().to(device, non_blocking=True) if on_gpu else rows
    return by_stream[stream]


def _captured_table(by_stream: dict[int, Tensor], device: torch.device, build: Callable[[], Tensor]) -> Tensor:
    if by_stream:
        table = next(reversed(by_stream.values()))
        if not any(table is held for held in _captured):
            _captured.append(table)
        return table
    rows = _reserve.hold(build())
    _captured.append(rows)
    return torch.empty_like(rows, device=device).copy_(rows, non_blocking=True)


# --------------------------------------------------------------------------------------------- in the kernels


@triton.jit
def row_of(table: tl.tensor, LISTS: tl.constexpr) -> tl.tensor:
    return table + tl.program_id(0).to(tl.int64) * (2 + LISTS)


@triton.jit
def chunk_of(row: tl.tensor, LIST: tl.constexpr, FULL: tl.constexpr, DTYPE: tl.constexpr) -> tl.tensor:
    # The hint is lost when it is given on an argument of a function, as in load() below.
    return tl.multiple_of(tl.load(row + 2 + LIST).to(tl.pointer_type(DTYPE)), 16 if FULL else 1)


@triton.jit
def load(chunk: tl.tensor, elements: tl.tensor, FULL: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
    offsets = tl.arange(0, BLOCK)
    # Only the load without a mask is made of 128-bit accesses.
    return tl.load(chunk + offsets) if FULL else tl.load(chunk + offsets, mask=offsets < elements, other=0)


@triton.jit
def store(chunk: tl.tensor, values: tl.tensor, elements: tl.tensor, FULL: tl.constexpr, BLOCK: tl.constexpr) -> None:
    offsets = tl.arange(0, BLOCK)
    if FULL:
        tl.store(chunk + offsets, values)
    else:
        tl.store(chunk + offsets, values, mask=offsets < elements)
