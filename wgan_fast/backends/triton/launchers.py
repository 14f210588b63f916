"""The Triton backend as the dispatcher sees it: the launchers, and the devices whose tensors they take.

A GPU with a working driver is needed, or Triton's interpreter (TRITON_INTERPRET=1 in the environment before
the first import), which runs the same kernels on CPU tensors, slowly, so that they can be tested without a GPU.
"""

from __future__ import annotations

import torch

try:
    import triton
except ImportError as error:
    raise ImportError(f"Triton is not installed: pip install 'triton>=3.5' [{error}]") from error
if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 5):
    raise ImportError(f"Triton {triton.__version__} is too old: expected 3.5 or newer")

from wgan_fast.backends.triton.activation_double_backward import activation_double_backward
from wgan_fast.backends.triton.clip_weights import clip_weights_
from wgan_fast.backends.triton.gradient_norm_penalty import gradient_norm_penalty
from wgan_fast.backends.triton.interpolate import interpolate
from wgan_fast.backends.triton.norm_double_backward import norm_double_backward
from wgan_fast.backends.triton.optimizer_step import adam_step_, rmsprop_step_

__all__ = [
    "DEVICE_TYPES",
    "activation_double_backward",
    "adam_step_",
    "clip_weights_",
    "gradient_norm_penalty",
    "interpolate",
    "norm_double_backward",
    "rmsprop_step_",
]


def _device_types() -> tuple[str, ...]:
    if triton.knobs.runtime.interpret:
        # Not CUDA tensors: the interpreter would follow their addresses on the host.
        return ("cpu",)
    if not torch.cuda.is_available():
        raise ImportError(
            "Triton needs a CUDA device that torch can use, and there is none (TRITON_INTERPRET=1, set "
            "before the program starts, runs the kernels on CPU tensors, for tests)"
        )
    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # the driver's, or of the C compiler that Triton builds its stub with
        raise ImportError(f"Triton found no usable CUDA driver [{type(error).__name__}: {error}]") from error
    return ("cuda",)


DEVICE_TYPES = _device_types()
