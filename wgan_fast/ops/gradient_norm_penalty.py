"""gradient_norm_penalty: the eager call, its autograd Function and the torch.library op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wgan_fast import reference
from wgan_fast.backends import choose
from wgan_fast.dtypes import accumulation_dtype
from wgan_fast.ops.dispatch import laid_out_as, serving

THIRD_ORDER = (
    "the fused gradient-norm penalty can be differentiated once (which gives the critic's double backward), not "
    "twice: for a third derivative pass backend='reference'"
)


def gradient_norm_penalty(
    gradients: Tensor, target: float, one_sided: bool, weight: float, reduction: str, backend: str
) -> tuple[Tensor, Tensor]:
    """Value and norms; the value is differentiable with respect to ``gradients``, the norms are not."""
    module = serving(backend, gradients)
    options = {"target": target, "one_sided": one_sided, "weight": weight, "reduction": reduction}
    if torch.is_grad_enabled() and gradients.requires_grad and module is not reference:
        return _penalty(gradients, module.gradient_norm_penalty, options)
    value, norms, _ = module.gradient_norm_penalty(gradients, **options, with_slope=False)
    return value, norms


def _scaled_slope(slope: Tensor, upstream: Tensor) -> Tensor:
    """slope_b times the incoming gradient, which is one number, or one per sample for reduction="none"."""
    if upstream.dim() == 0:
        return slope * upstream
    return (slope * upstream.reshape(-1, *[1] * (slope.dim() - 1))).to(slope.dtype)


def _is_one(upstream: Tensor) -> bool:
    """True for the gradient 1 that value.backward() starts from, where reading it is free: on a CPU."""
    return type(upstream) is Tensor and upstream.is_cpu and upstream.dim() == 0 and upstream.item() == 1


class _GradientNormPenalty(torch.autograd.Function):
    """The kernel computes the slope du = dP/dg in the forward pass, from the same read of the gradients."""

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
            # create_graph=True: the result is correct, but its derivative would lack the gradients' part.
            return _not_twice(_scaled_slope(slope, upstream[0]), gradients), None, None
        # The weight is inside the kernel, so the incoming gradient is usually 1 and the slope is the result.
        return slope if _is_one(upstream[0]) else _scaled_slope(slope, upstream[0]), None, None


class _NotTwice(torch.autograd.Function):
    """The identity on the slope, connected to the gradients it came from; its backward raises RuntimeError."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, gradients: Tensor) -> Tensor:
        return slope.view_as(slope)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError(THIRD_ORDER)


_penalty: Callable[..., tuple[Tensor, Tensor]] = _GradientNormPenalty.apply
_not_twice: Callable[[Tensor, Tensor], Tensor] = _NotTwice.apply


@torch.library.custom_op("wgan_fast::gradient_norm_penalty", mutates_args=())
def _gradient_norm_penalty_op(
    gradients: Tensor, target: float, one_sided: bool, weight: float, reduction: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    value, norms, slope = choose(gradients.device.type, backend).gradient_norm_penalty(
        gradients, target=target, one_sided=one_sided, weight=weight, reduction=reduction, with_slope=True
    )
    return value, norms, laid_out_as(gradients, slope)


@_gradient_norm_penalty_op.register_fake
def _(
    gradients: Tensor, target: float, one_sided: bool, weight: float, reduction: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    wide = accumulation_dtype(gradients.dtype)
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
