"""rmsprop_step_ and adam_step_: the eager calls and the torch.library ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor

from wgan_fast.ops.dispatch import in_place
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

_WRITTEN = [0, 2, 3, 4, 5]  # every list but the gradients


def rmsprop_step_(lists: Sequence[Sequence[Tensor]], options: RMSpropOptions, backend: str) -> None:
    """``lists`` in the order of ``reference.rmsprop_step_``."""
    in_place(lists, _WRITTEN, backend, lambda module, lists: module.rmsprop_step_(lists, options))


def adam_step_(lists: Sequence[Sequence[Tensor]], options: AdamOptions, backend: str) -> None:
    """``lists`` in the order of ``reference.adam_step_``."""
    in_place(lists, _WRITTEN, backend, lambda module, lists: module.adam_step_(lists, options))


def _registered(step: Callable[..., None], lists: Sequence[str], options: type[RMSpropOptions | AdamOptions]) -> Any:
    """``step`` as a torch.library op: every list, every option and the backend are arguments of their own."""
    tensors = [f"Tensor(a{i}!)[] {name}" if i in _WRITTEN else f"Tensor[] {name}" for i, name in enumerate(lists)]
    numbers = [f"{'bool' if kind is bool else 'float'} {name}" for name, kind in get_type_hints(options).items()]

    def op(*arguments: Any) -> None:
        step(arguments[: len(lists)], options(*arguments[len(lists) : -1]), arguments[-1])

    return torch.library.custom_op(
        f"wgan_fast::{step.__name__}",
        op,
        mutates_args={lists[i] for i in _WRITTEN},
        schema=f"({', '.join([*tensors, *numbers])}, str backend) -> ()",
    )


# An op is registered for as long as its definition is referenced.
_rmsprop_step_op = _registered(
    rmsprop_step_,
    ["params", "grads", "square_avgs", "grad_avgs", "momentum_buffers", "steps"],
    RMSpropOptions,
)
_adam_step_op = _registered(
    adam_step_,
    ["params", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "steps"],
    AdamOptions,
)
