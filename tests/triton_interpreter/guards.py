"""Tensors between margins: what a kernel writes outside shows."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 64
MARK = 1234.0


class Guarded:
    """Buffers with marked margins around the tensors handed out."""

    def __init__(self) -> None:
        self.buffers: list[tuple[Tensor, int, int]] = []

    def like(self, values: Tensor, offset: int = 0) -> Tensor:
        """A contiguous copy of ``values`` that starts ``offset`` elements after a 16-byte boundary."""
        start = MARGIN + offset
        buffer = torch.full((start + values.numel() + MARGIN,), MARK, dtype=values.dtype)
        buffer = buffer[(-buffer.data_ptr() % 16) // buffer.element_size() :]
        inside = buffer[start : start + values.numel()]
        inside.copy_(values.flatten())
        self.buffers.append((buffer, start, values.numel()))
        return inside.view(values.shape)

    def check(self) -> None:
        for buffer, start, size in self.buffers:
            assert (buffer[:start] == MARK).all(), "written before the start"
            assert (buffer[start + size :] == MARK).all(), "written past the end"
