"""interpolate: the eager call, its autograd Function and the torch.library op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from wgan_fast import reference
from wgan_fast.ops.dispatch import refuse_inference_tensors, serving


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, backend: str, out: Tensor | None = None) -> Tensor:
    module = serving(backend, real, fake, alpha)
    if out is not None:
        refuse_inference_tensors([out])
        mixed = module.interpolate(real, fake, alpha, out)
        if module is not reference:
            increment_version([out])
        return cast(Tensor, mixed)
    recorded = torch.is_grad_enabled() and (real.requires_grad or fake.requires_grad or alpha.requires_grad)
    if recorded and module is not reference:
        return _interpolate(real, fake, alpha, module.interpolate)
    return cast(Tensor, module.interpolate(real, fake, alpha))


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """dx/dreal = alpha, dx/dfake = 1 - alpha, dx_b/dalpha_b = real_b - fake_b."""
    real, fake, alpha = ctx.saved_tensors
    needed = ctx.needs_input_grad
    weight = alpha.reshape(-1, *[1] * (real.dim() - 1))
    wide = gradient.to(alpha.dtype)
    return (
        (wide * weight).to(real.dtype) if needed[0] else None,
        (wide * (1 - weight)).to(fake.dtype) if needed[1] else None,
        (wide * (real - fake)).flatten(1).sum(1) if needed[2] else None,
        None,
    )


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(real: Tensor, fake: Tensor, alpha: Tensor, launch: Callable[..., Tensor]) -> Tensor:
        return launch(real, fake, alpha)

    setup_context = staticmethod(_save_inputs)
    backward = staticmethod(_gradients)


_interpolate: Callable[..., Tensor] = _Interpolate.apply


@torch.library.custom_op("wgan_fast::interpolate", mutates_args=())
def _interpolate_op(real: Tensor, fake: Tensor, alpha: Tensor, backend: str) -> Tensor:
    # Into a tensor laid out as the fake implementation says: backends differ where real and fake do.
    return interpolate(real, fake, alpha, backend, out=torch.empty_like(real))


@_interpolate_op.register_fake
def _(real: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(real)


_interpolate_op.register_autograd(_gradients, setup_context=_save_inputs)
