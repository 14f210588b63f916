"""The public stateless operations, one module each: contract, validation, dispatch.

``reference.py`` specifies what they compute; ``backends`` selects the backend. Every function
takes ``backend="auto"``: the first usable backend for these tensors, or the one named (see ``available_backends``).
"""

from __future__ import annotations

from wgan_fast.functional.activation_double_backward import activation_double_backward
from wgan_fast.functional.clip_weights import clip_bounds, clip_weights_
from wgan_fast.functional.gradient_norm_penalty import Norm, Reduction, gradient_norm_penalty
from wgan_fast.functional.interpolate import interpolate
from wgan_fast.functional.norm_double_backward import norm_double_backward
from wgan_fast.functional.optimizer_step import adam_step_, rmsprop_step_

__all__ = [
    "Norm",
    "Reduction",
    "activation_double_backward",
    "adam_step_",
    "clip_bounds",
    "clip_weights_",
    "gradient_norm_penalty",
    "interpolate",
    "norm_double_backward",
    "rmsprop_step_",
]
