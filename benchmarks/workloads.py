"""The critics whose weights are clipped and updated: shapes of parameters, from small and few to large and many."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shapes = list[tuple[int, ...]]

MNIST_MLP: Shapes = [(512, 784), (512,), (256, 512), (256,), (1, 256), (1,)]
DCGAN_64: Shapes = [
    (64, 3, 4, 4),
    (128, 64, 4, 4),
    (128,),
    (128,),
    (256, 128, 4, 4),
    (256,),
    (256,),
    (512, 256, 4, 4),
    (1, 512, 4, 4),
]
HUNDRED_TENSORS: Shapes = [(128, 128, 3, 3)] * 20 + [(128,)] * 80

CRITICS = {
    "MNIST MLP critic, 0.53 M in 6": MNIST_MLP,
    "DCGAN-64 critic, 2.76 M in 9": DCGAN_64,
    "100 tensors, 2.96 M": HUNDRED_TENSORS,
}


def num_values(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes)


def weights(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Parameters of such a critic, about a third of them outside of [-0.01, 0.01]."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).mul(0.01).to(dtype).requires_grad_() for shape in shapes]
