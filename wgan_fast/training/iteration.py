"""One iteration of the algorithm: n_critic critic steps and a generator step, and all that they change.

The mathematics is in steps.py; logging, checkpoints and progress are trainer.py's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wgan_fast.constraints import (
    Constraint,
    GradientPenalty,
    LipschitzNetwork,
    OrthogonalRegularization,
    SpectralNorm,
    WeightClipping,
)
from wgan_fast.optim import Adam, RMSprop
from wgan_fast.training.averaging import MovingAverage
from wgan_fast.training.config import Resolved
from wgan_fast.training.data import Batch, Data, draw_batch
from wgan_fast.training.errors import UserError
from wgan_fast.training.precision import AUTOCAST, float32_products, make_scaler
from wgan_fast.training.steps import CriticStep, critic_step, generator_step, has_batch_statistics

BURST_STEPS = 100
BURST_ITERATIONS = 25
BURST_PERIOD = 500


class Algorithm:
    """Algorithm 1 of Arjovsky et al. 2017 and of Gulrajani et al. 2017, with everything it changes.

    Args:
        generator, critic: the networks, which are moved to the config's device; the constraint prepares the critic.
        data: where real samples come from.
        config: resolved options.
        constraint: what keeps the critic Lipschitz.

    Attributes:
        average: moving average of the generator.
        critic_optimizer, generator_optimizer: one for each network.
        data_order: draws the real samples; noise comes from the device's default generator.
        iteration: iterations done.
        restores: how often a diverged training went back to a checkpoint; each halves the learning rate.
        joint: whether real and generated samples are scored as one batch.
        critic_scaler, generator_scaler: the loss scaling of fp16, or None.
    """

    def __init__(
        self, generator: nn.Module, critic: nn.Module, data: Data, config: Resolved, constraint: Constraint
    ) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.data = data
        self.constraint = constraint
        self.generator = generator.to(self.device).train()
        critic = critic.to(self.device)
        if config.channels_last:
            for network in (generator, critic):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.critic = _prepared(constraint, critic, data.sample_shape).train()
        self.average = MovingAverage(self.generator, config.ema_decay)
        self.critic_optimizer = make_optimizer(config, self.critic, constraint.clip_value)
        self.generator_optimizer = make_optimizer(config, generator, None)
        self.data_order = torch.Generator(self.device).manual_seed(config.seed)
        self.iteration = 0
        self.restores = 0
        self.joint = not has_batch_statistics(self.critic)
        self.critic_scaler = make_scaler(config.precision, self.device)
        self.generator_scaler = make_scaler(config.precision, self.device)
        self._autocast_dtype = AUTOCAST.get(config.precision)

    def iterate(self) -> tuple[CriticStep, Tensor]:
        """Do one iteration; returns what its last critic step saw, and the generator's loss, on the device."""
        with float32_products(self.config.precision, self.device):
            return self._iterate()

    def _iterate(self) -> tuple[CriticStep, Tensor]:
        self._set_learning_rate()
        for _ in range(self.critic_steps(self.iteration)):
            batch = self._batch()
            seen = self._critic_step(batch)
        # The classes of the last batch: in the proportions of the data, at no further draw.
        loss = generator_step(
            self.critic,
            self.generator,
            self.generator_optimizer,
            self._latent(),
            batch.labels,
            loss_name=self.config.loss,
            autocast_dtype=self._autocast_dtype,
            scaler=self.generator_scaler,
        )
        self.average.update(self.iteration)
        self.iteration += 1
        return seen, loss

    def critic_steps(self, iteration: int) -> int:
        """Critic steps in generator iteration ``iteration``, counted from 0: n_critic, or 100 in a burst."""
        burst = iteration < BURST_ITERATIONS or iteration % BURST_PERIOD == 0
        return BURST_STEPS if self.config.critic_burst and burst else self.config.n_critic

    def _batch(self) -> Batch:
        config = self.config
        batch = draw_batch(
            self.data, config.batch_size, self.data_order, labelled=config.conditional, device=self.device
        )
        if not config.channels_last:
            return batch
        return batch._replace(samples=batch.samples.contiguous(memory_format=torch.channels_last))

    def _critic_step(self, batch: Batch) -> CriticStep:
        return critic_step(
            self.critic,
            self.generator,
            self.critic_optimizer,
            self.constraint,
            batch.samples,
            self._latent(),
            batch.labels,
            loss_name=self.config.loss,
            joint=self.joint,
            autocast_dtype=self._autocast_dtype,
            scaler=self.critic_scaler,
        )

    def _latent(self) -> Tensor:
        return torch.randn(self.config.batch_size, self.config.latent_dim, device=self.device)

    @property
    def learning_rate(self) -> float:
        """Of this iteration: the config's, lowered by the decay and by restores."""
        left = 1 - self.iteration / self.config.iterations if self.config.lr_decay else 1.0
        return self.config.learning_rate * left * 0.5**self.restores

    def _set_learning_rate(self) -> None:
        if not (self.config.lr_decay or self.restores):
            return
        for optimizer in (self.critic_optimizer, self.generator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate


def make_constraint(config: Resolved) -> Constraint:
    """The constraint that a resolved config names."""
    constraints: dict[str, Callable[[], Constraint]] = {
        "none": Constraint,
        "clip": lambda: WeightClipping(config.clip_value),
        "gp": lambda: GradientPenalty(config.lambda_gp),
        "lp": lambda: GradientPenalty(config.lambda_gp, one_sided=True),
        "r1": lambda: GradientPenalty.r1(config.gamma),
        "r2": lambda: GradientPenalty.r2(config.gamma),
        "dragan": lambda: GradientPenalty.dragan(config.lambda_gp),
        "spectral": lambda: SpectralNorm(config.spectral_convolution),
        "orthogonal": lambda: OrthogonalRegularization(config.lambda_orthogonal, config.orthogonal_form),
        "lipschitz": LipschitzNetwork,
    }
    return constraints[config.constraint]()


def _prepared(constraint: Constraint, critic: nn.Module, sample_shape: tuple[int, ...]) -> nn.Module:
    parameter = next(critic.parameters())
    example = torch.zeros(1, *sample_shape, dtype=parameter.dtype, device=parameter.device)
    try:
        return constraint.prepare(critic, example)
    except ValueError as error:
        raise UserError(f"the constraint does not fit this critic: {error}") from error


def make_optimizer(
    config: Resolved, module: nn.Module, clip_value: float | tuple[float, float] | None
) -> torch.optim.Optimizer:
    """RMSprop or Adam as a resolved config has it; ``clip_value`` for the critic under weight clipping."""
    if config.optimizer == "rmsprop":
        return RMSprop(module.parameters(), lr=config.learning_rate, clip_value=clip_value)
    return Adam(module.parameters(), lr=config.learning_rate, betas=config.betas, clip_value=clip_value)
