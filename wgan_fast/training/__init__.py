"""A small trainer around the library: data, networks, loop, figures::

    from wgan_fast.training import Config, Trainer

Needs the extra ``wgan-fast[train]``.
"""

from __future__ import annotations

from wgan_fast.training.config import Config
from wgan_fast.training.data.sets import Data, TensorData, load_data, split
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.distributed import launched
from wgan_fast.training.loop.trainer import Trainer, TrainResult
from wgan_fast.training.models.pairs import build_models
from wgan_fast.training.run.folder import Run
from wgan_fast.training.step.steps import CriticStep, Descent, critic_step, generator_step

__all__ = [
    "Config",
    "CriticStep",
    "Data",
    "Descent",
    "Run",
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
