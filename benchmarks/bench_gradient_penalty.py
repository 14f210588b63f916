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
from itertools import pairwise

import torch
from torch import Tensor, nn

import wgan_fast
from benchmarks.common import DEVICE, Case, by_grad, main, step_case
from benchmarks.schema import OURS
from wgan_fast.double_backward import exact_shortcut
from wgan_fast.double_backward.convolution import DIRECT_DEVICES

Penalty = Callable[[nn.Module, Tensor], Tensor]


def mlp() -> nn.Module:
    hidden = [nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(nn.Linear(2, 512), nn.ReLU(), *hidden, nn.Linear(512, 1))


DCGAN_32, DCGAN_64 = [64, 128, 256], [64, 128, 256, 512]


def dcgan(sizes: list[int], norm: bool = False) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, sizes[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for a, b in pairwise(sizes):
        layers.append(nn.Conv2d(a, b, 4, 2, 1, bias=not norm))
        layers += [nn.InstanceNorm2d(b, affine=True)] if norm else []
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    return nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 4))


class Block(nn.Module):
    """A residual block of the WGAN-GP critic: (ReLU,) conv, ReLU, conv, mean pool where it goes down."""

    def __init__(self, channels_in: int, channels: int, down: bool, first: bool = False) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Identity() if first else nn.ReLU(),
            nn.Conv2d(channels_in, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.AvgPool2d(2) if down else nn.Identity(),
        )
        self.skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels_in, channels, 1)) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.main(x) + self.skip(x)
        return result


def resnet(channels: int = 128) -> nn.Module:
    """The critic of Gulrajani et al. 2017 for 32x32 images."""
    blocks = [Block(3, channels, down=True, first=True), Block(channels, channels, down=True)]
    blocks += [Block(channels, channels, down=False) for _ in range(2)]
    return nn.Sequential(*blocks, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))


CRITICS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "3x512 MLP, B=256": (mlp, (256, 2)),
    "DCGAN-64, B=32": (partial(dcgan, DCGAN_64), (32, 3, 64, 64)),
    "ResNet-32, B=8": (resnet, (8, 3, 32, 32)),
    "DCGAN-32 with InstanceNorm, B=32": (partial(dcgan, DCGAN_32, norm=True), (32, 3, 32, 32)),
}


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
    steps = {name: by_grad(critic, partial(penalty, critic, x)) for name, penalty in ways.items()}
    return step_case("whole penalty, forward + backward", workload, steps, steps["textbook"])


def cases() -> Iterator[Case]:
    for workload, (make, shape) in CRITICS.items():
        yield case(workload, make, shape)


if __name__ == "__main__":
    main("gradient_penalty", cases)
