"""rmsprop_step_ and adam_step_: contract, validation, dispatch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wgan_fast import ops
from wgan_fast.dtypes import DTYPE_NAMES, DTYPES, dtype_of
from wgan_fast.functional.arguments import describe
from wgan_fast.functional.clip_weights import clip_bounds
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions


def rmsprop_step_(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    grad_avgs: list[Tensor],
    momentum_buffers: list[Tensor],
    steps: list[Tensor],
    *,
    lr: float | Tensor,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    maximize: bool = False,
    clip_value: float | tuple[float, float] | None = None,
    backend: str = "auto",
) -> None:
    """One RMSprop update of all parameters and the clamp, in one pass over memory; everything in place.

    Equivalent to ``torch.optim.rmsprop.rmsprop(...)`` followed by ``clip_weights_(params, clip_value)``. The
    class ``wgan_fast.optim.RMSprop`` keeps the state for you.

    Args:
        params, grads, square_avgs, steps: one tensor per parameter; ``steps`` are 0-dim fp32 counts.
        grad_avgs: empty, or one tensor per parameter for the centred variant.
        momentum_buffers: empty where ``momentum`` is 0, else one tensor per parameter.
        lr, alpha, eps, weight_decay, momentum, maximize: as in ``torch.optim.RMSprop``.
        clip_value: as in ``clip_weights_``; None leaves the weights unclipped.

    Raises:
        ValueError: lists of unequal length, or a gradient or state whose shape is not its parameter's.
    """
    lists = [params, grads, square_avgs, grad_avgs, momentum_buffers, steps]
    _check_shapes(lists)
    options = RMSpropOptions(lr, alpha, eps, weight_decay, momentum, maximize, *bounds(clip_value))
    fused_step_(ops.rmsprop_step_, lists, options, backend)


def adam_step_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    *,
    lr: float | Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    clip_value: float | tuple[float, float] | None = None,
    backend: str = "auto",
) -> None:
    """One Adam update of all parameters and the clamp, in one pass over memory; everything in place.

    Equivalent to ``torch.optim.adam.adam(...)`` followed by ``clip_weights_(params, clip_value)``. The class
    ``wgan_fast.optim.Adam`` keeps the state for you. Arguments and errors as in ``rmsprop_step_``;
    ``max_exp_avg_sqs`` is empty, or one tensor per parameter for AMSGrad.
    """
    lists = [params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps]
    _check_shapes(lists)
    options = AdamOptions(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize, *bounds(clip_value))
    fused_step_(ops.adam_step_, lists, options, backend)


def bounds(clip_value: float | tuple[float, float] | None) -> tuple[float, float]:
    """(lo, hi), infinite where weights are not clipped."""
    return (-math.inf, math.inf) if clip_value is None else clip_bounds(clip_value)


def fused_step_(
    step: Callable[..., None], lists: list[list[Tensor]], options: RMSpropOptions | AdamOptions, backend: str
) -> None:
    """``step`` of ``ops`` on lists that agree in length, and in shape from parameter to parameter."""
    params, grads = lists[:2]
    if torch.compiler.is_compiling():
        _check_dtypes(params, grads)
        _check_shapes(lists)
        getattr(torch.ops.wgan_fast, step.__name__)(*lists, *options, backend)
        return
    # All at once; the loop, which explains, only where something is wrong.
    dtypes = list(map(dtype_of, params))
    if dtypes != list(map(dtype_of, grads)) or not DTYPES.issuperset(dtypes):
        _check_dtypes(params, grads)
    # Kernels get one size for a parameter and its state, which a checkpoint of another model may not have.
    sizes = list(map(Tensor.numel, params))
    if any(tensors and list(map(Tensor.numel, tensors)) != sizes for tensors in lists[1:-1]):
        _check_shapes(lists)
    step(lists, options, backend)


def _check_shapes(lists: list[list[Tensor]]) -> None:
    params, grads = lists[:2]
    lengths = [len(tensors) for tensors in lists]
    if len(grads) != len(params) or [length for length in lengths if length not in (0, len(params))]:
        raise ValueError(f"expected lists of {len(params)} tensors, one per parameter (or none), got {lengths}")
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if param.shape != grad.shape:
            raise _unlike(i, param, grad)
        for moments in lists[2:-1]:
            if moments and moments[i].shape != param.shape:
                expected, got = tuple(param.shape), tuple(moments[i].shape)
                raise ValueError(f"state of params[{i}]: expected tensors of shape {expected}, got {got}")


def _check_dtypes(params: list[Tensor], grads: list[Tensor]) -> None:
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if param.dtype not in DTYPES:
            raise TypeError(f"params[{i}]: expected {DTYPE_NAMES}, got {param.dtype}")
        if param.dtype != grad.dtype:
            raise _unlike(i, param, grad)


def _unlike(i: int, param: Tensor, grad: Tensor) -> ValueError:
    return ValueError(f"grads[{i}]: expected {describe(param)}, as params[{i}], got {describe(grad)}")
