"""The critics that the benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from wgan_fast.training.models.pairs import build_models

Critics = dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]
"""By name of the workload: what makes the critic, and the shape of a batch."""

DCGAN_32, DCGAN_64 = [64, 128, 256], [64, 128, 256, 512]


def perceptron(
    widths: Sequence[int],
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """``widths`` are those of the input and of the hidden layers."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), *([norm(b)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def dcgan(widths: Sequence[int], norm: bool = False) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for a, b in pairwise(widths):
        layers.append(nn.Conv2d(a, b, 4, 2, 1, bias=not norm))
        layers += [nn.InstanceNorm2d(b, affine=True)] if norm else []
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4))


def resnet() -> nn.Module:
    """The critic of Gulrajani et al. 2017 for 32x32 images."""
    return build_models("resnet", (3, 32, 32), latent_dim=128, width=128).critic


mlp = partial(perceptron, [2, 512, 512, 512])
CRITICS: Critics = {
    "3x512 MLP, B=256": (mlp, (256, 2)),
    "DCGAN-64, B=32": (partial(dcgan, DCGAN_64), (32, 3, 64, 64)),
    "ResNet-32, B=8": (resnet, (8, 3, 32, 32)),
    "DCGAN-32 with InstanceNorm, B=32": (partial(dcgan, DCGAN_32, norm=True), (32, 3, 32, 32)),
}
