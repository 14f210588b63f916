"""Where a custom autograd Function may stand in for torch's own: under plain reverse-mode differentiation alone."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def plain_autograd() -> bool:
    """Whether neither compilation, a ``torch.func`` transform, forward mode nor saved-tensor hooks are at work.

    A checkpointed segment, which is under such hooks, is computed again outside of the contexts of its first time,
    and would then save other tensors than the ones it is asked for.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    )
