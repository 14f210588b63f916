"""From validated tensors to a backend: the eager calls, their autograd Functions, and the torch.library ops.

Eager code calls ``clip_weights_``, ``interpolate``, ... of this module directly: a registered op costs 4 to 17 us
a call, which is what these operations take. Under ``torch.compile`` the same functions run behind the registered
ops ``torch.ops.wgan_fast.*``, which have fake implementations and gradients of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from wgan_fast import reference
from wgan_fast.backends import choose

THIRD_ORDER = (
    "the fused gradient-norm penalty can be differentiated once (which gives the critic's double backward), not "
    "twice: for a third derivative pass backend='reference'"
)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    return function.apply(*arguments)


def _in_place(
    name: str, lists: Sequence[Sequence[Tensor]], written: Sequence[int], backend: str, **options: Any
) -> None:
    """Run an in-place operation over parallel lists: one launch a device, the reference for what is left over.

    ``written`` are the positions of the lists that the kernels change: raw writes do not bump version counters,
    so it is done here.
    """
    devices = ["cpu"]
    if not all(tensor.is_cpu for tensor in lists[0]):
        devices = sorted({tensor.device.type for tensor in lists[0]})
    # All choices before the first change: a named backend that cannot serve one device must leave the others alone.
    for device, module in [(device, choose(device, backend)) for device in devices]:
        chosen = lists
        if len(devices) > 1:
            here = [i for i, tensor in enumerate(lists[0]) if tensor.device.type == device]
            chosen = [[tensors[i] for i in here] if tensors else [] for tensors in lists]
        rest = getattr(module, name)(*chosen, **options)
        if module is reference:
            continue
        if rest:
            left_over = set(rest)
            getattr(reference, name)(*([t[i] for i in rest] if t else [] for t in chosen), **options)
            chosen = [[t for i, t in enumerate(tensors) if i not in left_over] for tensors in chosen]
        for position in written:
            if chosen[position]:
                increment_version(chosen[position])


# ------------------------------------------------------------------------------------------------ clip_weights


def clip_weights_(tensors: Sequence[Tensor], lo: float, hi: float, backend: str) -> None:
    _in_place("clip_weights_", [tensors], [0], backend, lo=lo, hi=hi)


@torch.library.custom_op("wgan_fast::clip_weights_", mutates_args={"tensors"})
def _clip_weights_op(tensors: Sequence[Tensor], lo: float, hi: float, backend: str) -> None:
    clip_weights_(tensors, lo, hi, backend)


@_clip_weights_op.register_fake
def _(tensors: Sequence[Tensor], lo: float, hi: float, backend: str) -> None:
    return None


# ---------------------------------------------------------------------------------------------- optimizer_step


def rmsprop_step_(lists: Sequence[Sequence[Tensor]], backend: str, **options: Any) -> None:
    """``lists`` in the order of ``reference.rmsprop_step_``; all but the gradients are written."""
    _in_place("rmsprop_step_", lists, [0, 2, 3, 4, 5], backend, **options)


def adam_step_(lists: Sequence[Sequence[Tensor]], backend: str, **options: Any) -> None:
    """``lists`` in the order of ``reference.adam_step_``; all but the gradients are written."""
    _in_place("adam_step_", lists, [0, 2, 3, 4, 5], backend, **options)


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
    rmsprop_step_(
        lists,
        backend,
        lr=lr,
        alpha=alpha,
        eps=eps,
        weight_decay=weight_decay,
        momentum=momentum,
        maximize=maximize,
        lo=lo,
        hi=hi,
    )


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
    adam_step_(
        lists,
        backend,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
        lo=lo,
        hi=hi,
    )


@_rmsprop_step_op.register_fake
@_adam_step_op.register_fake
def _(*arguments: Any, **options: Any) -> None:
    return None


# ------------------------------------------------------------------------------------------------- interpolate


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, backend: str, out: Tensor | None = None) -> Tensor:
    module = choose(real.device.type, backend)
    if out is not None:
        mixed = module.interpolate(real, fake, alpha, out)
        if module is not reference:
            increment_version([out])
        return cast(Tensor, mixed)
    recorded = torch.is_grad_enabled() and (real.requires_grad or fake.requires_grad or alpha.requires_grad)
    if recorded and module is not reference:
        return cast(Tensor, _apply(_Interpolate, real, fake, alpha, module.interpolate))
    return cast(Tensor, module.interpolate(real, fake, alpha))


def _interpolate_gradients(
    gradient: Tensor, real: Tensor, fake: Tensor, alpha: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dx/dreal = alpha, dx/dfake = 1 - alpha, dx_b/dalpha_b = real_b - fake_b."""
    weight = alpha.reshape(-1, *[1] * (real.dim() - 1))
    wide = gradient.to(alpha.dtype)
    return (
        (wide * weight).to(real.dtype) if needed[0] else None,
        (wide * (1 - weight)).to(fake.dtype) if needed[1] else None,
        (wide * (real - fake)).flatten(1).sum(1) if needed[2] else None,
    )


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, real: Tensor, fake: Tensor, alpha: Tensor, launch: Callable[..., Tensor]) -> Tensor:
        ctx.save_for_backward(real, fake, alpha)
        return launch(real, fake, alpha)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        real, fake, alpha = ctx.saved_tensors
        return *_interpolate_gradients(gradients[0], real, fake, alpha, ctx.needs_input_grad), None


@torch.library.custom_op("wgan_fast::interpolate", mutates_args=())
def _interpolate_op(real: Tensor, fake: Tensor, alpha: Tensor, backend: str) -> Tensor:
    # Into a tensor laid out as the fake implementation says: backends differ where real and fake do.
    return interpolate(real, fake, alpha, backend, out=torch.empty_like(real))


@_interpolate_op.register_fake
def _(real: Tensor, fake: Tensor, alpha: Tensor, backend: str) -> Tensor:
    return torch.empty_like(real)


def _save_interpolate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _interpolate_op_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    real, fake, alpha = ctx.saved_tensors
    return *_interpolate_gradients(gradient, real, fake, alpha, ctx.needs_input_grad), None


_interpolate_op.register_autograd(_interpolate_op_backward, setup_context=_save_interpolate)


# --------------------------------------------------------------------------------------- gradient_norm_penalty


def gradient_norm_penalty(
    gradients: Tensor, target: float, one_sided: bool, weight: float, reduction: str, backend: str
) -> tuple[Tensor, Tensor]:
    """Value and norms; the value is differentiable with respect to ``gradients``, the norms are not."""
    module = choose(gradients.device.type, backend)
    options = {"target": target, "one_sided": one_sided, "weight": weight, "reduction": reduction}
    if torch.is_grad_enabled() and gradients.requires_grad and module is not reference:
        launch = module.gradient_norm_penalty
        return cast(tuple[Tensor, Tensor], _apply(_GradientNormPenalty, gradients, launch, options))
    value, norms, _ = module.gradient_norm_penalty(gradients, **options, with_slope=False)
    return value, norms


def _scaled_slope(slope: Tensor, upstream: Tensor) -> Tensor:
    """slope_b times the incoming gradient, which is one number, or one a sample for reduction="none"."""
    if upstream.dim() == 0:
        return slope * upstream
    return (slope * upstream.reshape(-1, *[1] * (slope.dim() - 1))).to(slope.dtype)


def _is_one(upstream: Tensor) -> bool:
    """True for the gradient that value.backward() starts from, where reading it is free: real numbers on a CPU."""
    return type(upstream) is Tensor and upstream.is_cpu and upstream.dim() == 0 and upstream.item() == 1


class _GradientNormPenalty(torch.autograd.Function):
    """The kernel computes the slope du = dP/dg in the forward pass, from the same reading of the gradients."""

    @staticmethod
    def forward(
        ctx: Any, gradients: Tensor, launch: Callable[..., Any], options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        value, norms, slope = launch(gradients, **options, with_slope=True)
        ctx.save_for_backward(slope, gradients)
        ctx.mark_non_differentiable(norms)
        ctx.set_materialize_grads(False)
        return value, norms

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, None, None]:
        if upstream[0] is None:
            return None, None, None
        slope, gradients = ctx.saved_tensors
        if torch.is_grad_enabled():
            # create_graph=True: the result is right, only a derivative of it would lack the gradients' part.
            return cast(Tensor, _apply(_NotTwice, _scaled_slope(slope, upstream[0]), gradients)), None, None
        # The weight is inside the kernel, so the usual incoming gradient is 1 and the slope is the answer as it is.
        return slope if _is_one(upstream[0]) else _scaled_slope(slope, upstream[0]), None, None


class _NotTwice(torch.autograd.Function):
    """The slope as it is, tied to the gradients it came from; its own backward is a sentence."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, gradients: Tensor) -> Tensor:
        return slope.view_as(slope)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError(THIRD_ORDER)


@torch.library.custom_op("wgan_fast::gradient_norm_penalty", mutates_args=())
def _gradient_norm_penalty_op(
    gradients: Tensor, target: float, one_sided: bool, weight: float, reduction: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    value, norms, slope = choose(gradients.device.type, backend).gradient_norm_penalty(
        gradients, target=target, one_sided=one_sided, weight=weight, reduction=reduction, with_slope=True
    )
    if slope.stride() != (laid_out := torch.empty_like(gradients)).stride():
        slope = laid_out.copy_(slope)
    return value, norms, slope


@_gradient_norm_penalty_op.register_fake
def _(
    gradients: Tensor, target: float, one_sided: bool, weight: float, reduction: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    wide = reference.accumulation_dtype(gradients.dtype)
    norms = gradients.new_empty(gradients.shape[0], dtype=wide)
    value = gradients.new_empty((gradients.shape[0],) if reduction == "none" else (), dtype=wide)
    return value, norms, torch.empty_like(gradients)


def _save_penalty(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[2])


def _penalty_op_backward(
    ctx: Any, upstream: Tensor, norms_upstream: Tensor, slope_upstream: Tensor
) -> tuple[Tensor | None, ...]:
    (slope,) = ctx.saved_tensors
    return _scaled_slope(slope, upstream), None, None, None, None, None


_gradient_norm_penalty_op.register_autograd(_penalty_op_backward, setup_context=_save_penalty)
