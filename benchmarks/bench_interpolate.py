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


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        real, fake, alpha = torch.randn(shape), torch.randn(shape), torch.rand(shape[0])
        column = alpha.view(-1, *[1] * (len(shape) - 1))

        def provider(
            function: Callable[[Tensor, Tensor, Tensor], Tensor],
            weight: Tensor,
            real: Tensor = real,
            fake: Tensor = fake,
        ) -> Provider:
            return Provider(timed=lambda: function(real, fake, weight), result=lambda: [function(real, fake, weight)])

        num_bytes = 3 * 4 * real.numel()
        torch._dynamo.reset()
        yield Case(
            op="interpolate",
            workload="x".join(map(str, shape)),
            bytes=num_bytes,
            tolerance=1e-6,
            providers={
                OURS: provider(wgan_fast.interpolate, alpha),
                "textbook": provider(textbook, column),
                "torch.lerp": provider(lerp, column),
                "torch.compile": provider(compiled(textbook), column),
                LIMIT: copy_of(num_bytes),
            },
        )


if __name__ == "__main__":
    main("interpolate", cases)
