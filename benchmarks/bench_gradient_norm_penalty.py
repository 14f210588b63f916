"""gradient_norm_penalty, forward and backward, against the textbook lines and torch.compile of them.

The critic is left out: its input gradient is given. "lambda outside" multiplies our penalty by 10 after the call
instead of passing weight=10, which costs one more pass over the slope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import wgan_fast
from benchmarks.common import Case, Provider, compiled, copy_of, main
from benchmarks.schema import LIMIT, OURS

SHAPES = [(64, 12288), (64, 784), (256, 2)]


def textbook(gradients: Tensor) -> Tensor:
    penalty: Tensor = 10 * ((gradients.norm(2, dim=1) - 1) ** 2).mean()
    return penalty


def ours(gradients: Tensor) -> Tensor:
    penalty: Tensor = wgan_fast.gradient_norm_penalty(gradients, weight=10.0)
    return penalty


def lambda_outside(gradients: Tensor) -> Tensor:
    penalty: Tensor = 10 * wgan_fast.gradient_norm_penalty(gradients)
    return penalty


def provider(function: Callable[[Tensor], Tensor], gradients: Tensor) -> Provider:
    def timed() -> None:
        gradients.grad = None
        function(gradients).backward()

    def result() -> list[Tensor]:
        leaf = gradients.detach().requires_grad_()
        value = function(leaf)
        return [value.detach(), *torch.autograd.grad(value, leaf)]

    return Provider(timed=timed, result=result)


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        gradients = torch.randn(shape, requires_grad=True)
        num_bytes = 2 * 4 * gradients.numel()
        torch._dynamo.reset()
        ways = {OURS: ours, "textbook": textbook, "torch.compile": compiled(textbook)}
        ways[f"{OURS}, lambda outside"] = lambda_outside
        providers = {name: provider(function, gradients) for name, function in ways.items()}
        providers[LIMIT] = copy_of(num_bytes)
        yield Case("penalty forward + backward", "x".join(map(str, shape)), num_bytes, providers, tolerance=1e-5)


if __name__ == "__main__":
    main("gradient_norm_penalty", cases)
