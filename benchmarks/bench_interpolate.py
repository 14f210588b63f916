"""interpolate against the textbook line, torch.lerp and torch.compile; alpha is given, so nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import wgan_fast
from benchmarks.common import Case, Provider, compiled, copy_of, main
from benchmarks.schema import LIMIT, OURS

SHAPES = [(64, 3, 64, 64), (64, 3, 32, 32), (256, 2)]


def textbook(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return alpha * real + (1 - alpha) * fake


def lerp(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return torch.lerp(fake, real, alpha)


def case(shape: tuple[int, ...]) -> Case:
    real, fake, alpha = torch.randn(shape), torch.randn(shape), torch.rand(shape[0])
    column = alpha.view(-1, *[1] * (len(shape) - 1))

    def provider(function: Callable[[Tensor, Tensor, Tensor], Tensor], weight: Tensor) -> Provider:
        return Provider(timed=lambda: function(real, fake, weight), result=lambda: [function(real, fake, weight)])

    num_bytes = 3 * 4 * real.numel()
    torch._dynamo.reset()
    providers = {
        OURS: provider(wgan_fast.interpolate, alpha),
        "textbook": provider(textbook, column),
        "torch.lerp": provider(lerp, column),
        "torch.compile": provider(compiled(textbook), column),
        LIMIT: copy_of(num_bytes),
    }
    return Case("interpolate", "x".join(map(str, shape)), num_bytes, providers, tolerance=1e-6)


def cases() -> Iterator[Case]:
    yield from map(case, SHAPES)


if __name__ == "__main__":
    main("interpolate", cases)
