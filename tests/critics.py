"""A zoo of critics: the architectures that gradient penalties meet, at sizes that a test can afford."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


class ResidualBlock(nn.Module):
    """A block of the WGAN-GP ResNet: ReLU, conv, ReLU, conv, mean pool; the shortcut pooled and 1x1."""

    def __init__(self, channels_in: int, channels: int, norm: Callable[[int], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1)
        self.norm = norm(channels_in)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(F.relu(self.first(F.relu(self.norm(x)))))
        return F.avg_pool2d(h, 2) + self.skip(F.avg_pool2d(x, 2))


class ResNet(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(ResidualBlock(6, 6, norm), ResidualBlock(6, 8, norm))
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(self.stem(x))).mean((2, 3)))


class Conditional(nn.Module):
    """Labels come in through an embedding, concatenated, added in a hidden layer, and as a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.label_net = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.1), nn.Linear(6, 7))
        self.first = nn.Linear(6 + 4, 7)
        self.second = nn.Linear(7, 5)
        self.score = nn.Linear(5, 1)
        self.projection = nn.Embedding(5, 5)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        label = self.embedding(labels)
        h = F.leaky_relu(self.first(torch.cat([x, label], 1)) + self.label_net(label), 0.2)
        h = torch.relu(self.second(h))
        return self.score(h).squeeze(1) + (h * self.projection(labels)).sum(1)


class SharedGraph(nn.Module):
    """One layer used thrice, skips across it, two heads of which one is not the score."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.shared = nn.Linear(8, 8)
        self.offset = nn.Parameter(torch.randn(8))
        self.scale = nn.Parameter(torch.randn(8))
        self.auxiliary = nn.Linear(8, 3)
        self.score = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.enter(x)
        b = self.shared(a).relu()
        c = F.hardtanh(self.shared(b) + a) * self.scale
        d = torch.maximum(self.shared(c) + self.offset, b).abs()
        return self.score(d + a).clamp(-50, 50), F.relu(self.auxiliary(F.leaky_relu(d)))


class GroupSort(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 2)).sort(2).values.flatten(1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.leaky_relu(self.qkv(x)).chunk(3, -1)
        return self.out(F.relu(torch.softmax(q @ k.mT, -1) @ v)).mean(1)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.LeakyReLU(0.2))
        self.second = nn.Sequential(nn.Linear(8, 8), nn.Hardtanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(self.first, x, use_reentrant=False))


def dcgan(channels: int = 4, inplace: bool = True) -> nn.Module:
    sizes = [3, channels, 2 * channels, 4 * channels]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2, inplace)]
    return nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 2))


def mlp(*activations: nn.Module) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(6, 8)]
    for activation in activations:
        layers += [activation, nn.Linear(8, 8)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(8, 1))


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 6, 5, padding=2, padding_mode="reflect"),
        nn.LeakyReLU(0.2),
        nn.MaxPool1d(2),
        nn.Conv1d(6, 6, 3, dilation=2, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 1),
    )


def volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1, padding_mode="replicate"),
        nn.ReLU6(),
        nn.MaxPool3d(2, stride=1),
        nn.Conv3d(4, 4, 2),
        nn.PReLU(4),
        nn.AvgPool3d(2),
        nn.Flatten(),
        nn.LazyLinear(1),
    )


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.ReflectionPad2d(1),
        nn.Conv2d(3, 6, 3, groups=3),
        nn.PReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.ConvTranspose2d(6, 4, 3, 2, output_padding=1),
        nn.Softshrink(0.1),
        nn.Dropout(0.0),
        nn.AdaptiveMaxPool2d((3, 2)),
        nn.Flatten(),
        nn.Linear(24, 1),
    )


def spectral() -> nn.Module:
    layers = [parametrizations.spectral_norm(nn.Linear(6, 8)), parametrizations.weight_norm(nn.Linear(8, 8))]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.LeakyReLU(0.1), nn.Linear(8, 1)).eval()


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 4, 3, 2, 1),
        norm,
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 1, 2),
    )


@dataclass(frozen=True)
class Entry:
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    labels: bool = False


ZOO = {
    "mlp": Entry(lambda: mlp(nn.ReLU(), nn.ReLU()), (5, 6)),
    "mlp_inplace": Entry(lambda: mlp(nn.ReLU(inplace=True), nn.Hardtanh(inplace=True)), (5, 6)),
    "mlp_smooth_mixed": Entry(lambda: mlp(nn.SiLU(), nn.ReLU(), nn.Tanh(), nn.LeakyReLU(), nn.GELU()), (5, 6)),
    "groupsort": Entry(lambda: mlp(GroupSort(), nn.ReLU(), GroupSort()), (5, 6)),
    "dcgan": Entry(dcgan, (3, 3, 16, 16)),
    "dcgan_not_inplace": Entry(lambda: dcgan(inplace=False), (3, 3, 16, 16)),
    "resnet": Entry(ResNet, (3, 3, 8, 8)),
    "resnet_groupnorm": Entry(lambda: ResNet(lambda c: nn.GroupNorm(2, c)), (3, 3, 8, 8)),
    "layernorm": Entry(lambda: normed(nn.LayerNorm((4, 2, 2))), (3, 3, 8, 8)),
    "instancenorm": Entry(lambda: normed(nn.InstanceNorm2d(4, affine=True)), (3, 3, 8, 8)),
    "batchnorm": Entry(lambda: normed(nn.BatchNorm2d(4)), (3, 3, 8, 8)),
    "batchnorm_eval": Entry(lambda: normed(nn.BatchNorm2d(4)).eval(), (3, 3, 8, 8)),
    "sequence": Entry(sequence, (3, 4, 16)),
    "volume": Entry(volume, (2, 2, 5, 5, 5)),
    "pooled": Entry(pooled, (3, 3, 9, 9)),
    "conditional": Entry(Conditional, (5, 6), labels=True),
    "shared_graph": Entry(SharedGraph, (5, 6)),
    "spectral_norm": Entry(spectral, (5, 6)),
    "attention": Entry(Attention, (3, 5, 4)),
    "checkpointed": Entry(Checkpointed, (5, 6)),
}


def build(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[nn.Module, Tensor, tuple[Any, ...]]:
    """(critic, x, further arguments of the critic)."""
    torch.manual_seed(seed)
    entry = ZOO[name]
    critic = entry.make()
    x = torch.randn(entry.shape)
    if any(isinstance(module, nn.LazyLinear) for module in critic.modules()):
        critic(x)
    args = (torch.randint(5, entry.shape[:1]),) if entry.labels else ()
    return critic.to(dtype), x.to(dtype), args
