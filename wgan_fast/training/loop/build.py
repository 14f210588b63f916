"""A trainer of built-in networks and data, from a config alone."""

from __future__ import annotations

from pathlib import Path

import torch

from wgan_fast.training.config import Config, resolve
from wgan_fast.training.data.sets import check_classes, class_count, load_data
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.distributed import Processes
from wgan_fast.training.loop.graphs import Capture
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.models.pairs import build_models


def build_trainer(config: Config, processes: Processes | None = None, capture: Capture | None = None) -> Trainer:
    """Data, freshly seeded networks and trainer of a config.

    Raises:
        UserError: unusable data, device or options.
    """
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {config.device} cannot be used ({reason})") from error
    root = None if config.data_root is None else Path(config.data_root)
    data = load_data(
        config.data, image_size=config.image_size, data_root=root, device=device, conditional=config.conditional
    )
    resolved = resolve(config, data.sample_shape, class_count(data))
    if resolved.conditional:
        check_classes(data)
    if resolved.conditional and resolved.constraint in ("spectral", "lipschitz"):
        raise UserError(
            f"--conditional contradicts --constraint {resolved.constraint}: it does not bound the projection on the "
            "vector of the class that the built-in critics score with"
        )
    torch.manual_seed(resolved.seed)
    networks = build_models(
        resolved.architecture,
        data.sample_shape,
        resolved.latent_dim,
        resolved.width,
        resolved.critic_norm,
        resolved.num_classes,
    )
    return Trainer(*networks, data, resolved, processes=processes, capture=capture)
