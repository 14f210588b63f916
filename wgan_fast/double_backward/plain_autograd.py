"""Where a custom autograd Function may stand in for torch's own: under plain reverse-mode differentiation alone."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def plain_autograd() -> bool:
    """Whether neither compilation, a ``torch.func`` transform, forward mode nor saved-tensor hooks are at work.

    A checkpointed segment, which is under such hooks, is computed again outside of the contexts of its first time,
    and would then save other tensors than the ones it is asked for.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and (_top_hooks(True) is None if _top_hooks is not None else not _saved_tensor_hooks_by_trial())
    )


def _saved_tensor_hooks_by_trial() -> bool:
    """The same answer before torch 2.7, which cannot be asked: hooks that are active cannot be disabled."""
    hooks = torch._C._autograd
    if not hooks._saved_tensors_hooks_is_enabled():
        return False  # none can be active
    try:
        hooks._saved_tensors_hooks_disable("")
    except RuntimeError:
        return True
    finally:
        hooks._saved_tensors_hooks_enable()
    return False
