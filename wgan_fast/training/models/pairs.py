"""Built-in pairs: generators from ``(B, latent_dim)`` to samples, critics from samples to ``(B,)``.

Conditional ones take classes ``(B,)`` as their second argument: see conditional.py.

The trainer takes any such pair of modules, also your own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from wgan_fast.training.errors import UserError
from wgan_fast.training.models.conditional import ConditionalGenerator, ProjectionCritic, embedding_dim

Architecture = Literal["mlp", "pyramid", "conv8", "dcgan", "resnet"]
CriticNorm = Literal["none", "batch"]


class Pair(NamedTuple):
    """A generator and its critic."""

    generator: nn.Module
    critic: nn.Module


def default_architecture(sample_shape: tuple[int, ...]) -> Architecture:
    """The default pair for samples of this shape: DCGAN for 32 and 64 pixels, else perceptrons."""
    if len(sample_shape) == 3 and sample_shape[1:] in ((32, 32), (64, 64)):
        return "dcgan"
    return "pyramid" if sample_shape == (1, 28, 28) else "mlp"


def default_width(architecture: Architecture) -> int:
    """Hidden units of the perceptrons, base channels of the others: the papers' where there is a paper."""
    return {"mlp": 512, "pyramid": 512, "conv8": 16, "dcgan": 64, "resnet": 128}[architecture]


def build_models(
    architecture: Architecture,
    sample_shape: tuple[int, ...],
    latent_dim: int,
    width: int,
    critic_norm: CriticNorm = "none",
    num_classes: int = 0,
) -> Pair:
    """Build a freshly initialised pair.

    Args:
        architecture: ``mlp`` (three equal hidden layers, any shape), ``pyramid`` (perceptrons that narrow
            towards the score, 784-512-256-1 for MNIST, any shape), ``conv8`` (8x8 images), ``dcgan`` (32x32
            or 64x64), ``resnet`` (32x32).
        sample_shape: shape of one sample, ``(features,)`` or ``(channels, height, width)``.
        latent_dim: size of the generator's input.
        width: hidden units of the perceptrons, base channels of the others.
        critic_norm: ``batch`` puts batch normalisation in DCGAN's critic, as the WGAN paper has it; a
            gradient penalty is defined per sample and needs ``none`` (Gulrajani et al. 2017, section
            4).
        num_classes: where not 0, both networks take a class as their second argument.

    Raises:
        UserError: a pair that does not fit the samples.
    """
    sizes = {"conv8": ((8, 8),), "dcgan": ((32, 32), (64, 64)), "resnet": ((32, 32),)}
    if architecture in sizes and sample_shape[1:] not in sizes[architecture]:
        expected = " or ".join(f"{h}x{w}" for h, w in sizes[architecture])
        raise UserError(f"--architecture {architecture} makes {expected} images; these samples are {sample_shape}")
    if critic_norm == "batch" and architecture != "dcgan":
        raise UserError(f"--critic-norm batch exists only for --architecture dcgan, not for {architecture}")
    inputs = latent_dim + (embedding_dim(num_classes) if num_classes else 0)
    builders: dict[Architecture, Callable[[tuple[int, ...], int, int], Pair]] = {
        "mlp": _mlp,
        "pyramid": _pyramid,
        "conv8": _conv8,
        "dcgan": partial(_dcgan, critic_norm=critic_norm),
        "resnet": _resnet,
    }
    pair = builders[architecture](sample_shape, inputs, width)
    if not num_classes:
        return pair
    return Pair(ConditionalGenerator(pair.generator, num_classes), ProjectionCritic(pair.critic, num_classes))


def _mlp(sample_shape: tuple[int, ...], latent_dim: int, width: int) -> Pair:
    return _perceptrons(sample_shape, latent_dim, [width] * 3, [width] * 3)


def _pyramid(sample_shape: tuple[int, ...], latent_dim: int, width: int) -> Pair:
    half = max(width // 2, 1)
    return _perceptrons(sample_shape, latent_dim, [half, width, 2 * width], [width, half])


def _perceptrons(
    sample_shape: tuple[int, ...], latent_dim: int, generator_widths: list[int], critic_widths: list[int]
) -> Pair:
    features = int(torch.Size(sample_shape).numel())
    is_image = len(sample_shape) == 3
    generator = nn.Sequential(
        *_hidden(latent_dim, generator_widths, nn.ReLU), nn.Linear(generator_widths[-1], features)
    )
    generator.extend([nn.Tanh() if is_image else nn.Identity(), nn.Unflatten(1, sample_shape)])
    activation = (lambda: nn.LeakyReLU(0.2)) if is_image else nn.ReLU
    hidden = _hidden(features, critic_widths, activation)
    critic = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(critic_widths[-1], 1), nn.Flatten(0))
    return Pair(generator, critic)


def _hidden(features: int, widths: list[int], activation: Callable[[], nn.Module]) -> list[nn.Module]:
    layers = (nn.Linear(inputs, outputs) for inputs, outputs in pairwise([features, *widths]))
    return [module for layer in layers for module in (layer, activation())]


def _conv8(sample_shape: tuple[int, ...], latent_dim: int, width: int) -> Pair:
    channels = sample_shape[0]
    generator = nn.Sequential(
        nn.Linear(latent_dim, 16 * width),
        nn.Unflatten(1, (4 * width, 2, 2)),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        *_up(4 * width, 2 * width),
        *_up(2 * width, width),
        nn.Conv2d(width, channels, 3, padding=1),
        nn.Tanh(),
    )
    critic = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        *_down(width, 2 * width, "none"),
        *_down(2 * width, 4 * width, "none"),
        nn.Flatten(),
        nn.Linear(16 * width, 1),
        nn.Flatten(0),
    )
    return Pair(generator, critic)


def _dcgan(sample_shape: tuple[int, ...], latent_dim: int, width: int, critic_norm: CriticNorm) -> Pair:
    """Radford et al. 2016: 4x4 kernels of stride 2, LeakyReLU 0.2 in the critic; here without the sigmoid."""
    channels, side, _ = sample_shape
    widths = [width * 2**level for level in range(side.bit_length() - 3)]
    upward = widths[::-1]
    generator = nn.Sequential(
        nn.Unflatten(1, (latent_dim, 1, 1)),
        nn.ConvTranspose2d(latent_dim, upward[0], 4, bias=False),
        nn.BatchNorm2d(upward[0]),
        nn.ReLU(),
    )
    for inputs, outputs in pairwise(upward):
        generator.extend(_up(inputs, outputs))
    generator.extend([nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1), nn.Tanh()])
    critic = nn.Sequential(nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
    for inputs, outputs in pairwise(widths):
        critic.extend(_down(inputs, outputs, critic_norm))
    critic.extend([nn.Conv2d(widths[-1], 1, 4, bias=False), nn.Flatten(0)])
    for module in (*generator.modules(), *critic.modules()):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return Pair(generator, critic)


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _down(inputs: int, outputs: int, norm: CriticNorm) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=norm == "none")
    return [convolution, *([nn.BatchNorm2d(outputs)] if norm == "batch" else []), nn.LeakyReLU(0.2)]


class Residual(nn.Module):
    """The sum of two paths; the residual one is initialised first."""

    residual: nn.Module
    shortcut: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)  # type: ignore[no-any-return]


class GeneratorBlock(Residual):
    """Doubles the side: BN, ReLU, upsample, conv, BN, ReLU, conv, plus an upsampled 1x1 shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.shortcut = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 1))


class CriticBlock(Residual):
    """No normalisation; ``down`` halves the side, ``first`` is the form that sees the image."""

    def __init__(self, inputs: int, width: int, *, down: bool, first: bool = False) -> None:
        super().__init__()
        pool = nn.AvgPool2d(2) if down else nn.Identity()
        self.residual = nn.Sequential(
            nn.Identity() if first else nn.ReLU(),
            nn.Conv2d(inputs, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            pool,
        )
        self.shortcut = nn.Identity()
        if first:
            self.shortcut = nn.Sequential(pool, nn.Conv2d(inputs, width, 1))
        elif down:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1), pool)


class MeanPool(nn.Module):
    """``(B, C, H, W)`` to ``(B, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def _resnet(sample_shape: tuple[int, ...], latent_dim: int, width: int) -> Pair:
    """The 32x32 residual pair of Gulrajani et al. 2017, appendix F (CIFAR-10)."""
    channels = sample_shape[0]
    generator = nn.Sequential(
        nn.Linear(latent_dim, 16 * width),
        nn.Unflatten(1, (width, 4, 4)),
        *[GeneratorBlock(width) for _ in range(3)],
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, channels, 3, padding=1),
        nn.Tanh(),
    )
    critic = nn.Sequential(
        CriticBlock(channels, width, down=True, first=True),
        CriticBlock(width, width, down=True),
        CriticBlock(width, width, down=False),
        CriticBlock(width, width, down=False),
        nn.ReLU(),
        MeanPool(),
        nn.Linear(width, 1),
        nn.Flatten(0),
    )
    return Pair(generator, critic)
