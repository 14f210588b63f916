"""What changes over a run: the critic steps of an iteration, the learning rate, and the weight of the penalty."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from wgan_fast.training.config import Config

BURST_STEPS = 100
BURST_ITERATIONS = 25
BURST_PERIOD = 500


def critic_steps(config: Config, iteration: int) -> int:
    """Critic steps in generator iteration ``iteration``, counted from 0: n_critic, or 100 in a burst."""
    burst = iteration < BURST_ITERATIONS or iteration % BURST_PERIOD == 0
    return BURST_STEPS if config.critic_burst and burst else config.n_critic


def learning_rate(config: Config, iteration: int, restores: int) -> float:
    """The config's, lowered linearly to 0 under ``lr_decay``, and halved by every restore."""
    left = 1 - iteration / config.iterations if config.lr_decay else 1.0
    return config.learning_rate * left * 0.5**restores


def gamma(config: Config, iteration: int) -> float:
    """The config's, on its way to ``gamma_final``."""
    done = iteration / config.iterations
    if config.gamma_decay == "none":
        return config.gamma
    share = done if config.gamma_decay == "linear" else (1 - math.cos(math.pi * done)) / 2
    return config.gamma + share * (config.gamma_final - config.gamma)


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Set it in all groups; in place where it is a tensor, which a CUDA graph reads."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
