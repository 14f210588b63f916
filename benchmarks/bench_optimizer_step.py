"""RMSprop and Adam with clip against torch.optim's step followed by the clamp loop.

Each provider owns its parameters, gradients and moments. The copy moves as many bytes as the fused step has to:
5 values per parameter for RMSprop (reads p, g, v; writes p, v), 7 for Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import wgan_fast
from benchmarks.common import Case, Provider, copy_of, main
from benchmarks.schema import LIMIT, OURS
from benchmarks.workloads import CRITICS, Shapes, num_values, weights

CLIP_VALUE = 0.01


def set_gradients(params: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(7)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


def provider(shapes: Shapes, make: Callable[[list[Tensor]], Callable[[], object]]) -> Provider:
    def result() -> list[Tensor]:
        params = weights(shapes)
        step = make(params)
        set_gradients(params)
        for _ in range(3):
            step()
        return params

    params = weights(shapes)
    set_gradients(params)
    return Provider(timed=make(params), result=result)


def fused(optimizer: Callable[..., Any], **options: Any) -> Callable[[list[Tensor]], Callable[[], object]]:
    def make(params: list[Tensor]) -> Callable[[], object]:
        step: Callable[[], object] = optimizer(params, clip_value=CLIP_VALUE, **options).step
        return step

    return make


def then_loop(optimizer: Callable[..., Any], **options: Any) -> Callable[[list[Tensor]], Callable[[], object]]:
    def make(params: list[Tensor]) -> Callable[[], object]:
        theirs = optimizer(params, **options)

        def step() -> None:
            theirs.step()
            for param in params:
                param.data.clamp_(-CLIP_VALUE, CLIP_VALUE)

        return step

    return make


def cases() -> Iterator[Case]:
    for workload, shapes in CRITICS.items():
        num_bytes = 5 * 4 * num_values(shapes)
        yield Case(
            op="RMSprop step + clip",
            workload=workload,
            bytes=num_bytes,
            rtol=1e-5,
            atol=1e-8,
            providers={
                OURS: provider(shapes, fused(wgan_fast.optim.RMSprop, lr=5e-5)),
                "torch.optim + loop": provider(shapes, then_loop(torch.optim.RMSprop, lr=5e-5)),
                "foreach + loop": provider(shapes, then_loop(torch.optim.RMSprop, lr=5e-5, foreach=True)),
                LIMIT: copy_of(num_bytes),
            },
        )
    for workload, shapes in CRITICS.items():
        num_bytes = 7 * 4 * num_values(shapes)
        options = {"lr": 1e-4, "betas": (0.0, 0.9)}
        yield Case(
            op="Adam step + clip",
            workload=workload,
            bytes=num_bytes,
            rtol=1e-5,
            atol=1e-8,
            providers={
                OURS: provider(shapes, fused(wgan_fast.optim.Adam, **options)),
                "torch.optim fused + loop": provider(shapes, then_loop(torch.optim.Adam, fused=True, **options)),
                "torch.optim + loop": provider(shapes, then_loop(torch.optim.Adam, **options)),
                LIMIT: copy_of(num_bytes),
            },
        )


if __name__ == "__main__":
    main("optimizer_step", cases)
