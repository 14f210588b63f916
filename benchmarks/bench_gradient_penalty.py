"""The whole gradient penalty with its critic, forward and backward: what the exact shortcut saves.

A piecewise-linear critic costs six units of matrix work in eager PyTorch and four with the shortcut, so 1.5 is
the limit for the arithmetic; activations on whole feature maps, and convolutions, can gain more. Where a critic is
normalised or smooth, the second derivative is not zero and little can be saved. The forms that the device does not use
by default are measured as well: the other form of the convolutions' weight gradient, and torch's own products of linear
layers, which show what the shortcut does alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn

import wgan_fast
from benchmarks.common import DEVICE, Case, by_grad, main, step_case
from benchmarks.critics import CRITICS
from benchmarks.schema import OURS
from wgan_fast.double_backward import exact_shortcut
from wgan_fast.double_backward.convolution import DIRECT_DEVICES

Penalty = Callable[[nn.Module, Tensor], Tensor]


def textbook(critic: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    scores = critic(x)
    (gradients,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
    penalty: Tensor = ((gradients.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
    return penalty


def ours(critic: nn.Module, x: Tensor) -> Tensor:
    penalty: Tensor = wgan_fast.gradient_penalty(critic, x, None, points="real")
    return penalty


def without_shortcut(critic: nn.Module, x: Tensor) -> Tensor:
    penalty: Tensor = wgan_fast.gradient_penalty(critic, x, None, points="real", exact_shortcut=False)
    return penalty


def within(context: AbstractContextManager[object], critic: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with context:
        scores = critic(x)
    (gradients,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
    penalty: Tensor = wgan_fast.gradient_norm_penalty(gradients)
    return penalty


def other_convolution(critic: nn.Module, x: Tensor) -> Tensor:
    return within(exact_shortcut(direct_convolution=DEVICE.type not in DIRECT_DEVICES), critic, x)


def torchs_products(critic: nn.Module, x: Tensor) -> Tensor:
    return within(exact_shortcut(fast_linear=False), critic, x)


def case(workload: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> Case:
    torch.manual_seed(0)
    critic, x = make().to(DEVICE), torch.randn(shape, device=DEVICE)
    ways: dict[str, Penalty] = {OURS: ours, f"{OURS}, no shortcut": without_shortcut, "textbook": textbook}
    if any(isinstance(module, nn.Conv2d) for module in critic.modules()):
        form = "ATen's" if DEVICE.type in DIRECT_DEVICES else "direct"
        ways[f"{OURS}, {form} convolution"] = other_convolution
    elif DEVICE.type == "cpu":
        ways[f"{OURS}, torch's products"] = torchs_products
    losses = {name: partial(penalty, critic, x) for name, penalty in ways.items()}
    return step_case("whole penalty, forward + backward", workload, critic, losses, "textbook", by_grad)


def cases() -> Iterator[Case]:
    for workload, (make, shape) in CRITICS.items():
        yield case(workload, make, shape)


if __name__ == "__main__":
    main("gradient_penalty", cases)
