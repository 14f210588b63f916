"""clip_weights_ against the loop, the foreach pair, one flat buffer and torch.compile.

The flat buffer is a bound, not an alternative: a critic's parameters do not lie in one tensor. All providers clip the
same tensors, so each starts with the caches as the previous one left them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import wgan_fast
from benchmarks.common import Case, Provider, compiled, main
from benchmarks.schema import OURS
from benchmarks.workloads import CRITICS, DCGAN_64, Shapes, num_values, weights

CLIP_VALUE = 0.01


def loop(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        tensor.data.clamp_(-CLIP_VALUE, CLIP_VALUE)


def foreach(tensors: list[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_clamp_min_(tensors, -CLIP_VALUE)
        torch._foreach_clamp_max_(tensors, CLIP_VALUE)


def ours(tensors: list[Tensor]) -> None:
    wgan_fast.clip_weights_(tensors, CLIP_VALUE)


def plain(tensors: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors:
            tensor.clamp_(-CLIP_VALUE, CLIP_VALUE)


def provider(clip: Callable[[list[Tensor]], object], tensors: list[Tensor], shapes: Shapes) -> Provider:
    def result() -> list[Tensor]:
        fresh = weights(shapes, dtype=tensors[0].dtype)
        clip(fresh)
        return [tensor.detach().flatten() for tensor in fresh]

    return Provider(timed=lambda: clip(tensors), result=result)


def flat_buffer(tensors: list[Tensor]) -> Provider:
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    return Provider(timed=lambda: flat.clamp_(-CLIP_VALUE, CLIP_VALUE), result=None)


def cases() -> Iterator[Case]:
    workloads = [(workload, shapes, torch.float32) for workload, shapes in CRITICS.items()]
    for workload, shapes, dtype in [*workloads, ("DCGAN-64 critic in bf16, 2.76 M in 9", DCGAN_64, torch.bfloat16)]:
        tensors = weights(shapes, dtype=dtype)
        torch._dynamo.reset()
        providers = {
            OURS: provider(ours, tensors, shapes),
            "loop": provider(loop, tensors, shapes),
            "foreach pair": provider(foreach, tensors, shapes),
            "torch.compile": provider(compiled(plain), tensors, shapes),
            "flat buffer": flat_buffer(tensors),
        }
        yield Case("clip_weights", workload, 2 * dtype.itemsize * num_values(shapes), providers)


if __name__ == "__main__":
    main("clip_weights", cases)
