"""The trainer that shows what the library buys: data, networks, loop, figures.

    from wgan_fast.training import Config, Trainer

Needs the extra ``wgan-fast[train]``.
"""

from __future__ import annotations

from wgan_fast.training.config import Config
from wgan_fast.training.data import Data, TensorData, load_data, split
from wgan_fast.training.distributed import launched
from wgan_fast.training.errors import UserError
from wgan_fast.training.models import build_models
from wgan_fast.training.steps import CriticStep, critic_step, generator_step
from wgan_fast.training.trainer import Trainer, TrainResult

__all__ = [
    "Config",
    "CriticStep",
    "Data",
    "TensorData",
    "TrainResult",
    "Trainer",
    "UserError",
    "build_models",
    "critic_step",
    "generator_step",
    "launched",
    "load_data",
    "split",
]
