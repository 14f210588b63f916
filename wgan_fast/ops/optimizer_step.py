"""rmsprop_step_ and adam_step_: the eager calls and the torch.library ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


@torch.library.custom_op(
    "wgan_fast::rmsprop_step_",
    mutates_args={"params", "square_avgs", "grad_avgs", "momentum_buffers", "steps"},
)
def _rmsprop_step_op(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    grad_avgs: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    steps: Sequence[Tensor],
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
    lo: float,
    hi: float,
    backend: str,
) -> None:
    lists = [params, grads, square_avgs, grad_avgs, momentum_buffers, steps]
    options = RMSpropOptions(lr, alpha, eps, weight_decay, momentum, maximize, lo, hi)
    rmsprop_step_(lists, options, backend)


@torch.library.custom_op(
    "wgan_fast::adam_step_",
    mutates_args={"params", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "steps"},
)
def _adam_step_op(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
    lo: float,
    hi: float,
    backend: str,
) -> None:
    lists = [params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps]
    options = AdamOptions(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize, lo, hi)
    adam_step_(lists, options, backend)


@_rmsprop_step_op.register_fake
@_adam_step_op.register_fake
def _(*arguments: Any, **options: Any) -> None:
    return None
