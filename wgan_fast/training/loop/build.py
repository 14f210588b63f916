"""A trainer of built-in networks and data, from a config alone."""

from __future__ import annotations

import torch

from wgan_fast.training.config import Config
from wgan_fast.training.data.sets import check_classes, load_data
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.distributed import Processes
from wgan_fast.training.loop.graphs import Capture
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.models.pairs import Pair, build_models


def build_trainer(config: Config, processes: Processes | None = None, capture: Capture | None = None) -> Trainer:
    """Data, freshly seeded networks and trainer of a config."""
    data = load_data(
        config.data,
        image_size=config.image_size,
        data_root=config.data_root,
        device=usable_device(config.device),
        conditional=config.conditional,
    )
    config = config.matched_with(data)
    if config.conditional:
        check_classes(data)
    if config.conditional and config.constraint in ("spectral", "lipschitz"):
        raise UserError(
            f"--conditional contradicts --constraint {config.constraint}: it does not bound the projection on the "
            "vector of the class that the built-in critics score with"
        )
    torch.manual_seed(config.seed)
    return Trainer(*build_networks(config), data, config, processes=processes, capture=capture)


def build_networks(config: Config) -> Pair:
    """The built-in pair that a config names, freshly initialised."""
    return build_models(
        config.architecture,
        config.sample_shape,
        config.latent_dim,
        config.width,
        config.critic_norm,
        config.num_classes,
    )


def usable_device(name: str) -> torch.device:
    """The device of that name, which holds tensors and has a random generator."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        torch.Generator(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {name} cannot be used ({reason})") from error
    if device.type == "cpu" and device.index is not None:  # torch.load cannot restore to it
        raise UserError(f"--device {name} cannot be used (there is one CPU: --device cpu)")
    return device
