"""RMSprop and Adam with clip against torch.optim's step followed by the clamp loop.

Each provider owns its parameters, gradients and moments. The copy moves as many bytes as the fused step has to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import wgan_fast
from benchmarks.bench_clip_weights import CLIP_VALUE, loop
from benchmarks.common import Case, Provider, copy_of, main
from benchmarks.schema import LIMIT, OURS
from benchmarks.workloads import CRITICS, Shapes, num_values, weights


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
            loop(params)

        return step

    return make


RMSPROP = {"lr": 5e-5}
ADAM = {"lr": 1e-4, "betas": (0.0, 0.9)}
MOVED = {"RMSprop": 5, "Adam": 7}
"""Values per parameter that the fused step reads and writes: RMSprop reads p, g, v and writes p, v."""
STEPS = {
    "RMSprop": {
        OURS: fused(wgan_fast.optim.RMSprop, **RMSPROP),
        "torch.optim + loop": then_loop(torch.optim.RMSprop, **RMSPROP),
        "foreach + loop": then_loop(torch.optim.RMSprop, foreach=True, **RMSPROP),
    },
    "Adam": {
        OURS: fused(wgan_fast.optim.Adam, **ADAM),
        "torch.optim fused + loop": then_loop(torch.optim.Adam, fused=True, **ADAM),
        "torch.optim + loop": then_loop(torch.optim.Adam, **ADAM),
    },
}


def cases() -> Iterator[Case]:
    for name, makers in STEPS.items():
        for workload, shapes in CRITICS.items():
            num_bytes = MOVED[name] * 4 * num_values(shapes)
            providers = {way: provider(shapes, make) for way, make in makers.items()}
            providers[LIMIT] = copy_of(num_bytes)
            yield Case(f"{name} step + clip", workload, num_bytes, providers, tolerance=1e-6)


if __name__ == "__main__":
    main("optimizer_step", cases)
