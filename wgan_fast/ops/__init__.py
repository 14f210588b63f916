"""From validated tensors to a backend: the eager calls, their autograd Functions, and the torch.library ops.

Eager code calls ``clip_weights_``, ``interpolate``, ... of this module directly: a registered op costs 4 to 17 us
per call, as much as these operations themselves. Under ``torch.compile`` the same functions run behind the
registered ops ``torch.ops.wgan_fast.*``, which have fake implementations and gradients of their own.
"""

from __future__ import annotations

from wgan_fast.ops.activation_double_backward import activation_double_backward
from wgan_fast.ops.clip_weights import clip_weights_
from wgan_fast.ops.gradient_norm_penalty import gradient_norm_penalty
from wgan_fast.ops.interpolate import interpolate
from wgan_fast.ops.norm_double_backward import norm_double_backward
from wgan_fast.ops.optimizer_step import adam_step_, rmsprop_step_

__all__ = [
    "activation_double_backward",
    "adam_step_",
    "clip_weights_",
    "gradient_norm_penalty",
    "interpolate",
    "norm_double_backward",
    "rmsprop_step_",
]
