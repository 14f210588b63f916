"""interpolate: contract, validation, dispatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from wgan_fast import ops
from wgan_fast.dtypes import DTYPE_NAMES, DTYPES, accumulation_dtype
from wgan_fast.functional.arguments import describe
from wgan_fast.memory_layout import has_overlap


def interpolate(
    real: Tensor,
    fake: Tensor,
    alpha: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Random points on the straight lines between real and generated samples, one alpha per sample.

    Equivalent to::

        alpha = torch.rand(len(real), device=real.device)      # unless given
        x = torch.lerp(fake, real, alpha.view(-1, 1, 1, 1))    # fake + alpha (real - fake)

    Gulrajani et al. 2017 (Improved Training of Wasserstein GANs, algorithm 1, line 6). Arithmetic in fp32 (fp64
    for fp64). Differentiable with respect to real, fake and alpha.

    Args:
        real, fake: (B, ...), the same shape, dtype and device.
        alpha: (B,) or (B, 1, ..., 1), values usually in [0, 1); drawn uniformly when absent, in fp32 (fp64 for
            fp64), because bf16 has only 256 values there.
        generator: draws alpha; the device's default generator when absent.
        out: receives the points instead of a new tensor; the shape, dtype and device of real. It may be a slice of
            a larger buffer, such as the last third of a batch [real; fake; x].
        backend: which backend to use.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    _check_pair(real, fake)
    batch = real.shape[0]
    if alpha is None:
        wide = accumulation_dtype(real.dtype)
        alpha = torch.rand(batch, dtype=wide, device=real.device, generator=generator)
    else:
        alpha = _per_sample(alpha, real)
    if out is not None:
        _check_out(out, real, (real, fake, alpha))
    if torch.compiler.is_compiling():
        mixed = torch.ops.wgan_fast.interpolate(real, fake, alpha, backend)
        return cast(Tensor, mixed if out is None else out.copy_(mixed))
    return ops.interpolate(real, fake, alpha, backend, out)


def _check_pair(real: Tensor, fake: Tensor) -> None:
    if real.shape != fake.shape or real.dtype != fake.dtype or real.device != fake.device:
        raise ValueError(
            f"real and fake: expected the same shape, dtype and device, got {describe(real)} and {describe(fake)}"
        )
    if real.dtype not in DTYPES:
        raise TypeError(f"real: expected {DTYPE_NAMES}, got {real.dtype}")
    if real.dim() == 0:
        raise ValueError("real: expected a batch of shape (B, ...), got a 0-dimensional tensor")


def _per_sample(alpha: Tensor, real: Tensor) -> Tensor:
    """alpha as (B,) in the accumulation dtype."""
    batch = real.shape[0]
    if not isinstance(alpha, Tensor):
        raise TypeError(f"alpha={alpha!r}: expected a tensor with one value per sample, of shape ({batch},)")
    if alpha.numel() != batch or (alpha.dim() > 0 and alpha.shape[0] != batch) or alpha.dim() == 0:
        raise ValueError(
            f"alpha: expected one value per sample, shape ({batch},) or ({batch}, 1, ..., 1), got {tuple(alpha.shape)}"
        )
    if alpha.device != real.device:
        raise ValueError(f"alpha: expected a tensor on {real.device}, as real is, got one on {alpha.device}")
    wide = accumulation_dtype(real.dtype)
    return alpha if alpha.dim() == 1 and alpha.dtype == wide else alpha.reshape(batch).to(wide)


def _check_out(out: Tensor, real: Tensor, inputs: Sequence[Tensor]) -> None:
    if out.shape != real.shape or out.dtype != real.dtype or out.device != real.device:
        raise ValueError(f"out: expected {describe(real)}, got {describe(out)}")
    if has_overlap(out):
        raise ValueError(f"out: expected a tensor whose elements have memory of their own, got strides {out.stride()}")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (out, *inputs)):
        raise ValueError("out: cannot be used while autograd records; detach real, fake, alpha and out first")
