"""From the names in a config to objects: the constraint on the critic, the optimizers, and what records graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from wgan_fast.constraints import (
    Constraint,
    GradientPenalty,
    LipschitzNetwork,
    OrthogonalRegularization,
    SpectralNorm,
    WeightClipping,
)
from wgan_fast.optim import Adam, RMSprop
from wgan_fast.training.config import Config
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.graphs import CudaCapture


def make_constraint(config: Config) -> Constraint:
    """The constraint that a config names."""
    constraints: dict[str, Callable[[], Constraint]] = {
        "none": Constraint,
        "clip": lambda: WeightClipping(config.clip_value),
        "gp": lambda: GradientPenalty(config.lambda_gp * config.lazy),
        "lp": lambda: GradientPenalty(config.lambda_gp * config.lazy, one_sided=True),
        "r1": lambda: GradientPenalty.r1(config.gamma * config.lazy),
        "r2": lambda: GradientPenalty.r2(config.gamma * config.lazy),
        "r1r2": lambda: GradientPenalty.r1r2(config.gamma * config.lazy),
        "dragan": lambda: GradientPenalty.dragan(config.lambda_gp * config.lazy),
        "spectral": lambda: SpectralNorm(config.spectral_convolution),
        "orthogonal": lambda: OrthogonalRegularization(config.lambda_orthogonal, config.orthogonal_form),
        "lipschitz": LipschitzNetwork,
    }
    return constraints[config.constraint]()


def prepared(constraint: Constraint, critic: nn.Module, sample_shape: tuple[int, ...]) -> nn.Module:
    """The critic prepared by the constraint."""
    parameter = next(critic.parameters())
    example = torch.zeros(1, *sample_shape, dtype=parameter.dtype, device=parameter.device)
    try:
        return constraint.prepare(critic, example)
    except ValueError as error:
        raise UserError(f"the constraint does not fit this critic: {error}") from error


def make_optimizer(
    config: Config, module: nn.Module, clip_value: float | tuple[float, float] | None
) -> torch.optim.Optimizer:
    """RMSprop or Adam as a config has it; ``clip_value`` for the critic under weight clipping."""
    if config.optimizer == "rmsprop":
        return RMSprop(module.parameters(), lr=config.learning_rate, clip_value=clip_value)
    return Adam(module.parameters(), lr=config.learning_rate, betas=config.betas, clip_value=clip_value)


def make_capture(config: Config, device: torch.device, processes: int) -> CudaCapture | None:
    """What records iterations as CUDA graphs, where the config, the device and the number of processes allow it.

    Loss scaling reads a flag from the device in every step, which a graph cannot do; with several processes every step
    would hold a collective operation, whose capture has not been tested.
    """
    recorded = config.graph != "off" and device.type == "cuda" and config.precision != "fp16" and processes == 1
    return CudaCapture(device) if recorded else None


def check_processes(config: Config, processes: int) -> None:
    """Refuse a config whose training this many processes cannot share."""
    if config.batch_size % processes:
        raise UserError(
            f"--batch-size {config.batch_size} cannot be shared by {processes} processes: "
            "it is the batch of all processes; expected a multiple of their number"
        )
    if config.graph == "on" and processes > 1:
        raise UserError("--graph on contradicts several processes: their steps cannot be recorded")
