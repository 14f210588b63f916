"""Small networks trained on points in the plane, once per variant that a study compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wgan_fast.training.config import Config
from wgan_fast.training.data.points import PointStream, gaussian_mixture
from wgan_fast.training.data.sets import Data, load_data
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.models.pairs import build_models

CONSTRAINTS = ("clip", "gp", "lp", "r1", "r2", "dragan", "spectral", "orthogonal", "lipschitz")
Numbers = dict[str, float]
Look = Callable[[Trainer], Numbers]


@dataclass(frozen=True)
class ToyRun:
    """The budget of a run, the same for every variant, but weight clipping uses RMSprop with its own learning rate."""

    iterations: int
    looks: int = 12
    width: int = 64
    batch: int = 128
    learning_rate: float = 2e-3
    clip_learning_rate: float = 1e-3
    clip_value: float = 0.1
    lambda_gp: float = 0.1

    def config(self, variant: str, data: str, seed: int, **options: Any) -> Config:
        """``variant``: a constraint, or gan or gan-minimax for the standard GAN without one."""
        clip = variant == "clip"
        named: dict[str, Any] = {"constraint": variant}
        if variant.startswith("gan"):
            named = {"constraint": "none", "loss": variant}
        return Config(
            **named
            | {
                "data": data,
                "iterations": self.iterations,
                "seed": seed,
                "batch_size": self.batch,
                "learning_rate": self.clip_learning_rate if clip else self.learning_rate,
                "clip_value": self.clip_value,
                "lambda_gp": self.lambda_gp,
                "critic_burst": False,
                "log_every": max(1, self.iterations // self.looks),
            }
            | options
        )


def make_trainer(config: Config, width: int, data: Data | None = None) -> Trainer:
    """Three hidden layers of ``width`` on both sides, ready to train on ``data``, by default what the config names."""
    models = build_models("mlp", (2,), 2, width)
    return Trainer(models.generator, models.critic, data or load_data(config.data), config)


def wide_modes(name: str) -> PointStream:
    """The mixture of that name with modes 0.05 wide, three times the paper's, so that hundreds of iterations suffice
    where the paper's widths take tens of thousands. A uniform square still counts as 0 modes of 25."""
    stream = load_data(name)
    assert isinstance(stream, PointStream)
    assert stream.modes is not None
    return gaussian_mixture(name, stream.modes.centers, 0.05)


def watch(trainer: Trainer, look: Look) -> dict[str, Any]:
    """Train to the end; returns the results of ``look``, one list per name, and the iterations of the calls.

    A run whose losses are no longer finite ends early, and its last look is repeated, so that seeds stay comparable;
    ``diverged`` is then 1.
    """

    def looked() -> Numbers:
        trainer.critic.eval()  # spectral normalisation iterates in training mode, and ``look`` must change nothing
        numbers = look(trainer)
        trainer.critic.train()
        return numbers

    seen = [looked()]
    every, total = trainer.config.log_every, trainer.config.iterations
    iterations = [0, *[i for i in range(1, total + 1) if i % every == 0 or i == total]]
    diverged = 0.0
    try:
        trainer.train(lambda record: seen.append(looked()))
    except UserError:
        diverged = 1.0
        seen += [seen[-1]] * (len(iterations) - len(seen))
    looks = {name: [numbers[name] for numbers in seen] for name in seen[0]}
    return {"iteration": iterations, **looks, "diverged": diverged}


def sample_pair(trainer: Trainer, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` real points that training never saw, and as many generated ones."""
    return trainer.data.held_out(count, torch.Generator().manual_seed(seed)), trainer.sample(count, seed=seed)
