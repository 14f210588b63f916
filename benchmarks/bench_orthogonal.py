"""Orthogonal regularisation of all layers: its gradient, added to gradients that are there already.

The baseline is the loop over layers through autograd, with the smaller Gram matrix of each layer: ‖WᵀW - I‖² or
‖WWᵀ - I‖², which have the same gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.common import DEVICE, Case, Provider, compiled, main
from benchmarks.critics import CRITICS
from benchmarks.schema import OURS
from wgan_fast.nn import add_orthogonal_gradients_
from wgan_fast.nn.matrices import matrix_layers

WEIGHT = 1e-4


def penalty(weights: Sequence[Tensor]) -> Tensor:
    total = weights[0].new_zeros(())
    for weight in weights:
        matrix = weight.flatten(1)
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        total = total + ((gram - torch.eye(len(gram), device=gram.device)) ** 2).sum()
    return WEIGHT * total


def cases() -> Iterator[Case]:
    for workload, (make, _) in CRITICS.items():
        torch.manual_seed(0)
        critic = make().to(DEVICE)
        functions: dict[str, Callable[[nn.Module], Tensor]] = {
            OURS: partial(add_orthogonal_gradients_, weight=WEIGHT),
            "autograd": partial(through_autograd, penalty),
            "torch.compile": partial(through_autograd, compiled(penalty)),
        }
        providers = {name: _provider(copy.deepcopy(critic), function) for name, function in functions.items()}
        num_bytes = 4 * 4 * sum(layer.weight.numel() for _, layer in matrix_layers(critic))
        yield Case("orthogonal", workload, num_bytes, providers, tolerance=1e-4, device=DEVICE)


def through_autograd(penalty: Callable[[Sequence[Tensor]], Tensor], critic: nn.Module) -> Tensor:
    value = penalty([layer.weight for _, layer in matrix_layers(critic)])
    value.backward()
    return value


def _provider(critic: nn.Module, function: Callable[[nn.Module], Tensor]) -> Provider:
    def result() -> Sequence[Tensor]:
        for parameter in critic.parameters():
            parameter.grad = torch.ones_like(parameter)
        value = function(critic).detach()
        return [value, *(p.grad.clone() for p in critic.parameters() if p.grad is not None)]

    result()
    return Provider(timed=lambda: function(critic), result=result)


if __name__ == "__main__":
    main("orthogonal", cases)
