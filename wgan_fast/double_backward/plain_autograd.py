"""Where a custom autograd Function may stand in for torch's own: under plain reverse-mode differentiation alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def plain_autograd() -> bool:
    """Whether no compilation, ``torch.func`` transform, forward mode or saved-tensor hooks are active.

    A checkpointed segment, which is under such hooks, is recomputed outside the contexts of its first run, and would
    then save other tensors than those expected.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and (_top_hooks(True) is None if _top_hooks is not None else not _saved_tensor_hooks_by_trial())
    )


def _saved_tensor_hooks_by_trial() -> bool:
    """The same before torch 2.7, which has no query for it: hooks that are active cannot be disabled."""
    hooks: Any = torch._C._autograd  # torch's stubs have not all of it
    if not hooks._saved_tensors_hooks_is_enabled():
        return False  # none can be active
    try:
        hooks._saved_tensors_hooks_disable("")
    except RuntimeError:
        return True
    finally:
        hooks._saved_tensors_hooks_enable()
    return False
