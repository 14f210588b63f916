"""The parity tests of every operation over the CUDA backend, its kernels running on the host."""

from __future__ import annotations

from test_clip_weights import *  # noqa: F403
from test_gradient_norm_penalty import *  # noqa: F403
from test_interpolate import *  # noqa: F403
from test_optimizer_step import *  # noqa: F403
