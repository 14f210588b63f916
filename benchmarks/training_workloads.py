"""Whole training iterations to measure: the pairs, the data, our loop and the textbook's on the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.textbook import Textbook
from wgan_fast.training import Config, Trainer, build_models
from wgan_fast.training.data.sets import TensorData, split
from wgan_fast.training.loop.distributed import Processes

N_CRITIC = 5
SAMPLES = 1024
NEVER = 1 << 30
"""Iterations between two records, which would wait for the device."""

OPTIONS: dict[str, Any] = {"learning_rate": 1e-4, "betas": (0.5, 0.9), "lambda_gp": 10.0}


@dataclass(frozen=True)
class Workload:
    """``verified_batch``: how many samples the comparison in fp64 takes, fewer where an iteration is long."""

    name: str
    make: Callable[[], tuple[nn.Module, nn.Module]]
    sample_shape: tuple[int, ...]
    batch_size: int
    latent_dim: int
    verified_batch: int


def mnist_pair() -> tuple[nn.Module, nn.Module]:
    """The perceptrons of wgan_gp.py in eriklindernoren/PyTorch-GAN, on 784 pixels."""

    def block(inputs: int, outputs: int, norm: bool = True) -> list[nn.Module]:
        between = [nn.BatchNorm1d(outputs, 0.8)] if norm else []
        return [nn.Linear(inputs, outputs), *between, nn.LeakyReLU(0.2, inplace=True)]

    hidden = [*block(100, 128, norm=False), *block(128, 256), *block(256, 512), *block(512, 1024)]
    generator = nn.Sequential(*hidden, nn.Linear(1024, 784), nn.Tanh())
    critic = nn.Sequential(*block(784, 512, norm=False), *block(512, 256, norm=False), nn.Linear(256, 1))
    return generator, critic.append(nn.Flatten(0))


TOY = Workload("toy MLP, B=256", lambda: build_models("mlp", (2,), 2, 512), (2,), 256, 2, 256)
MNIST = Workload("MNIST MLP, B=64", mnist_pair, (784,), 64, 100, 64)
DCGAN = Workload("DCGAN-64, B=64", lambda: build_models("dcgan", (3, 64, 64), 100, 64), (3, 64, 64), 64, 100, 4)
DCGAN_256 = Workload("DCGAN-64, B=256", DCGAN.make, (3, 64, 64), 256, 100, 4)
RESNET = Workload("ResNet-32, B=64", lambda: build_models("resnet", (3, 32, 32), 128, 128), (3, 32, 32), 64, 128, 4)


def _start(load: Workload, device: torch.device) -> tuple[nn.Module, nn.Module, TensorData]:
    """Networks and data of the default dtype, the same in every call; the global generator is left at a fixed state."""
    torch.manual_seed(0)
    generator, critic = load.make()
    data = split(load.name, torch.randn(SAMPLES, *load.sample_shape).tanh(), device=device)
    torch.manual_seed(1)
    return generator.to(device), critic.to(device), data


def ours(
    load: Workload,
    batch_size: int | None = None,
    device: str = "cpu",
    processes: Processes | None = None,
    **options: Any,
) -> Trainer:
    """Our loop, without the moving average, which the textbook has not."""
    generator, critic, data = _start(load, torch.device(device))
    config = Config(
        sample_shape=load.sample_shape,
        constraint="gp",
        batch_size=batch_size or load.batch_size,
        latent_dim=load.latent_dim,
        n_critic=N_CRITIC,
        ema_decay=0.0,
        device=device,
        log_every=NEVER,
        **{**OPTIONS, "graph": "off", **options},
    )
    return Trainer(generator, critic, data, config, processes=processes)


def textbook(load: Workload, batch_size: int | None = None, device: str = "cpu", **options: Any) -> Textbook:
    generator, critic, data = _start(load, torch.device(device))
    order = torch.Generator(device).manual_seed(0)
    size = batch_size or load.batch_size
    return Textbook(
        generator,
        critic,
        lambda: data.batch(size, order),
        latent_dim=load.latent_dim,
        n_critic=N_CRITIC,
        **OPTIONS,
        **options,
    )


def parameters(generator: nn.Module, critic: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in (*generator.parameters(), *critic.parameters())])


def verify(load: Workload, device: str = "cpu") -> None:
    """Raise unless one iteration of both loops, from the same numbers, leaves the same weights.

    In fp64 to 1e-9. In fp32 to a tenth of Adam's first updates: where a gradient is near its eps, rounding decides.
    """
    weights: dict[tuple[str, torch.dtype], Tensor] = {}
    default = torch.get_default_dtype()
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            mine = ours(load, load.verified_batch, device)
            mine.iterate()
            other = textbook(load, load.verified_batch, device)
            other.iterate()
        finally:
            torch.set_default_dtype(default)
        weights["ours", dtype] = parameters(mine.generator, mine.critic).double()
        weights["textbook", dtype] = parameters(other.generator, other.critic).double()
    exact, expected = weights["ours", torch.float64], weights["textbook", torch.float64]
    torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-9)
    difference = (weights["ours", torch.float32] - weights["textbook", torch.float32]).norm()
    update = len(expected) ** 0.5 * OPTIONS["learning_rate"] * N_CRITIC
    if not difference < 0.1 * update:
        raise AssertionError(f"{load.name}: fp32 weights differ by {difference:.3g}, updates are up to {update:.3g}")
