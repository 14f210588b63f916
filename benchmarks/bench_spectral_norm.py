"""Spectral norm of all layers of a critic in training mode: power iteration, W / σ, and the gradient of W.

Forward and backward of the weights alone, with given gradients of the normalised weights; the layers themselves cost
the same either way. torch's parametrization is the baseline. The least traffic is that of W read twice and W / σ
written in the forward pass, and of the gradient read twice, W read once and the result written in the backward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from benchmarks.common import DEVICE, Case, Provider, main
from benchmarks.critics import CRITICS
from benchmarks.schema import OURS
from wgan_fast.nn import spectral_norm
from wgan_fast.nn.matrices import matrix_layers
from wgan_fast.nn.spectral_norm import PowerIteration


def cases() -> Iterator[Case]:
    for workload, (make, _) in CRITICS.items():
        torch.manual_seed(0)
        plain = make().to(DEVICE)
        theirs = copy.deepcopy(plain)
        for _, layer in list(matrix_layers(theirs)):
            parametrizations.spectral_norm(layer)
        ours = spectral_norm(plain)
        ours.load_state_dict(theirs.state_dict())
        hook = PowerIteration([layer for _, layer in matrix_layers(ours)], 1)
        providers = {OURS: _provider(ours, hook), "torch parametrization": _provider(theirs, None)}
        num_bytes = 4 * 7 * sum(layer.weight.numel() for _, layer in matrix_layers(ours))
        yield Case("spectral_norm", workload, num_bytes, providers, tolerance=1e-3, device=DEVICE)


def _provider(critic: nn.Module, hook: PowerIteration | None) -> Provider:
    state = copy.deepcopy(critic.state_dict())
    layers: list[Any] = [layer for _, layer in matrix_layers(critic)]
    originals = [layer.parametrizations.weight.original for layer in layers]
    generator = torch.Generator(DEVICE).manual_seed(1)
    gradients = [torch.randn(p.shape, generator=generator, device=DEVICE) for p in originals]

    def work() -> Sequence[Tensor]:
        if hook is not None:
            hook.before(critic, ())
        weights = [layer.weight for layer in layers]
        if hook is not None:
            hook.after(critic, (), None)
        return torch.autograd.grad(weights, originals, gradients)

    def result() -> Sequence[Tensor]:
        critic.load_state_dict(state)
        found = work()
        return [*found, *(buffer.clone() for buffer in critic.buffers())]

    return Provider(timed=work, result=result)


if __name__ == "__main__":
    main("spectral_norm", cases)
