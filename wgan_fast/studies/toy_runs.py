"""Small networks, mostly for points in the plane, trained once per variant that a study compares."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wgan_fast.studies.probes import dual_estimate, lipschitz_constant
from wgan_fast.studies.study import by_name
from wgan_fast.training.config import Config, ConstraintName
from wgan_fast.training.data.points import STREAMS, PointStream, gaussian_mixture
from wgan_fast.training.data.sets import Data, load_data
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.trainer import Record, Trainer
from wgan_fast.training.models.pairs import build_models
from wgan_fast.training.report.metrics import mode_coverage, wasserstein_1

CONSTRAINTS = ("clip", "gp", "lp", "r1", "r2", "dragan", "spectral", "orthogonal", "lipschitz")
Options = dict[str, Any]
"""Options of a `Config`; the loss is by default that of the constraint's paper."""
STANDARD_GAN: dict[str, Options] = {name: {"constraint": "none", "loss": name} for name in ("gan", "gan-minimax")}
LEAST_W1 = 1e-6


def constrained(*names: str) -> dict[str, Options]:
    """The options of these constraints, by name."""
    return {name: {"constraint": name} for name in names}


@dataclass(frozen=True)
class ToyRun:
    """Settings of a study that trains one pair per variant, with the same budget for each, but weight clipping uses
    RMSprop with its own learning rate.

    ``samples`` are compared with as many real ones at each of the ``looks``.
    """

    iterations: int
    looks: int = 12
    width: int = 64
    batch: int = 128
    learning_rate: float = 2e-3
    clip_learning_rate: float = 1e-3
    clip_value: float = 0.1
    lambda_gp: float = 0.1
    samples: int = 1000

    @property
    def log_every(self) -> int:
        """Iterations between two looks."""
        return max(1, self.iterations // self.looks)

    def config(self, data: str, seed: int, *, constraint: ConstraintName, **options: Any) -> Config:
        """The options of one variant, within the budget."""
        return Config(
            data=data,
            seed=seed,
            constraint=constraint,
            iterations=self.iterations,
            batch_size=self.batch,
            learning_rate=self.clip_learning_rate if constraint == "clip" else self.learning_rate,
            lambda_gp=self.lambda_gp,
            critic_burst=False,
            log_every=self.log_every,
            **{"clip_value": self.clip_value} | options,
        )

    def trainer(self, data: Data, seed: int, **options: Any) -> Trainer:
        """A pair of the budget's width, ready to train; ``options`` as in `config`."""
        return make_trainer(self.config(data.name, seed, **options), self.width, data)


def make_trainer(config: Config, width: int, data: Data) -> Trainer:
    """Three hidden layers of ``width`` on both sides, ready to train on ``data``."""
    return Trainer(*build_models("mlp", config.sample_shape, config.latent_dim, width), data, config)


def digits_trainer(width: int, seed: int, **options: Any) -> Trainer:
    """A pair of this width, ready to train on the digits."""
    return make_trainer(Config(data="digits", seed=seed, **options), width, load_data("digits"))


def diverges(trainer: Trainer, on_record: Callable[[Record], None] | None = None) -> float:
    """Train to the end: 0, or 1 where the losses stopped being finite before it."""
    try:
        trainer.train(on_record)
    except UserError:
        return 1.0
    return 0.0


def wide_modes(name: str) -> PointStream:
    """The mixture of that name with modes 0.05 wide, three times the paper's, so that hundreds of iterations suffice
    where the paper's widths take tens of thousands. A uniform square still counts as 0 modes of 25."""
    modes = STREAMS[name]().modes
    assert modes is not None
    return gaussian_mixture(name, modes.centers, 0.05)


def watch(trainer: Trainer, look: Callable[[Trainer], dict[str, Any]]) -> dict[str, Any]:
    """Train to the end; returns the results of ``look``, one list per name, the iterations of the calls, and the
    ``seconds`` of training, without the looks.

    A run whose losses are no longer finite ends early, and its last look is repeated, so that seeds stay comparable;
    ``diverged`` is then 1.
    """
    looking = 0.0

    def looked() -> dict[str, Any]:
        nonlocal looking
        start = time.perf_counter()
        trainer.critic.eval()  # spectral normalisation iterates in training mode, and ``look`` must change nothing
        numbers = look(trainer)
        trainer.critic.train()
        looking += time.perf_counter() - start
        return numbers

    start = time.perf_counter()
    seen = [looked()]
    every, total = trainer.config.log_every, trainer.config.iterations
    iterations = [0, *[i for i in range(1, total + 1) if i % every == 0 or i == total]]
    diverged = diverges(trainer, lambda record: seen.append(looked()))
    seconds = time.perf_counter() - start - looking
    seen += [seen[-1]] * (len(iterations) - len(seen))
    return {"iteration": iterations, **by_name(seen), "diverged": diverged, "seconds": seconds}


def modes_reached(trainer: Trainer, count: int, seed: int) -> dict[str, float]:
    """The modes covered by ``count`` generated points, and the share of these that are close to one."""
    data = trainer.data
    assert isinstance(data, PointStream)
    assert data.modes is not None
    coverage = mode_coverage(trainer.sample(count, seed=seed), data.modes)
    return {"covered": coverage.covered, "high_quality": coverage.high_quality}


def estimate_beside_w1(trainer: Trainer, count: int, seed: int) -> dict[str, float]:
    """The critic's estimate and the exact W1 on ``count`` points that training never saw and as many generated ones,
    the critic's measured Lipschitz constant L, and the estimate's share of its bound L · W1."""
    real, fake = trainer.data.held_out(count, torch.Generator().manual_seed(seed)), trainer.sample(count, seed=seed)
    w1 = estimate = lipschitz = math.nan
    if fake.isfinite().all():
        w1, estimate = wasserstein_1(real, fake), dual_estimate(trainer.critic, real, fake)
        lipschitz = lipschitz_constant(trainer.critic, real, fake)
    return {
        "w1_exact": w1,
        "estimate": estimate,
        "ratio": estimate / max(w1, LEAST_W1),
        "lipschitz_constant": lipschitz,
        "share_of_bound": estimate / max(lipschitz * w1, LEAST_W1),
    }
