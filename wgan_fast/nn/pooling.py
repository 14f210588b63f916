"""Pooling that shrinks the map and not the gradient."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from wgan_fast.nn.orthonormal import patches_of_one_value


class ScaledAvgPool2d(nn.Module):
    """Average pooling times √(window / N), N the most windows that one value is in: 1-Lipschitz, and tight.

    A plain average of n values has the Lipschitz constant 1 / √n, which limits the slope of a constrained critic; this
    one has 1 where windows do not overlap.

    Args:
        kernel_size: side or sides of the window; None for the whole map, which becomes 1 x 1.
        stride: distance between windows, by default their size.
    """

    def __init__(
        self, kernel_size: int | tuple[int, int] | None = None, stride: int | tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.kernel_size = None if kernel_size is None else _pair(kernel_size)
        self.stride = self.kernel_size if stride is None else _pair(stride)

    def forward(self, x: Tensor) -> Tensor:
        window = self.kernel_size or (x.shape[-2], x.shape[-1])
        stride = self.stride or window
        scale = math.sqrt(math.prod(window) / patches_of_one_value(window, stride, (1, 1)))
        return F.avg_pool2d(x, window, stride) * scale

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
