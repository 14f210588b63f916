"""wgan_fast: fast, exact, drop-in Lipschitz-constraint operations for Wasserstein GANs in PyTorch."""

from __future__ import annotations

import wgan_fast.compat as compat
import wgan_fast.constraints as constraints
import wgan_fast.nn as nn
import wgan_fast.optim as optim
from wgan_fast.backends import available_backends
from wgan_fast.critic_gradients import score_and_gradient
from wgan_fast.first_order import approximate_r1_penalty
from wgan_fast.functional.clip_weights import clip_weights_
from wgan_fast.functional.gradient_norm_penalty import gradient_norm_penalty
from wgan_fast.functional.interpolate import interpolate
from wgan_fast.penalties import (
    dragan_penalty,
    gradient_penalty,
    lipschitz_penalty,
    r1_penalty,
    r2_penalty,
)

__version__ = "0.1.0"

__all__ = [
    "approximate_r1_penalty",
    "available_backends",
    "clip_weights_",
    "compat",
    "constraints",
    "dragan_penalty",
    "gradient_norm_penalty",
    "gradient_penalty",
    "interpolate",
    "lipschitz_penalty",
    "nn",
    "optim",
    "r1_penalty",
    "r2_penalty",
    "score_and_gradient",
]
