"""gradient_norm_penalty: contract, validation, dispatch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import torch
from torch import Tensor

from wgan_fast import ops
from wgan_fast.functional.arguments import check_dtype

if TYPE_CHECKING:
    from typing_extensions import Unpack

Reduction = Literal["mean", "sum", "none"]
Norm = Literal["sample", "channel"]


class NormPenaltyOptions(TypedDict, total=False):
    """The options of ``gradient_norm_penalty`` that do not change what is returned."""

    target: float
    one_sided: bool
    norm: Norm
    reduction: Reduction
    weight: float
    backend: str


@overload
def gradient_norm_penalty(
    gradients: Tensor, *, return_norms: Literal[False] = False, **options: Unpack[NormPenaltyOptions]
) -> Tensor: ...
@overload
def gradient_norm_penalty(
    gradients: Tensor, *, return_norms: Literal[True], **options: Unpack[NormPenaltyOptions]
) -> tuple[Tensor, Tensor]: ...
def gradient_norm_penalty(
    gradients: Tensor,
    *,
    target: float = 1.0,
    one_sided: bool = False,
    norm: Norm = "sample",
    reduction: Reduction = "mean",
    weight: float = 1.0,
    return_norms: bool = False,
    backend: str = "auto",
) -> Any:
    """The penalty on the norm of a critic's input gradients: mean over samples of (‖g_b‖₂ - target)².

    Equivalent to::

        norms = gradients.flatten(1).norm(2, dim=1)
        penalty = weight * ((norms - target) ** 2).mean()            # one_sided: (norms - target).clamp(min=0)

    except for a zero gradient, where these lines give NaN or an arbitrary direction: here the value is
    (0 - target)² and the slope is exactly 0. Gulrajani et al. 2017, equation 3; one-sided: Petzka et al. 2018
    (WGAN-LP), equation 8. The value and its slope are computed in one pass over ``gradients``, in fp32 (fp64 for
    fp64) and in a fixed order: the same input gives the same bits.

    Differentiable once with respect to ``gradients``, which gives the critic's double backward; a further
    derivative raises RuntimeError (``backend="reference"`` has all orders).

    Args:
        gradients: (B, ...), at least 2-dimensional: the gradient of the critic's scores with respect to its input.
        target: the norm to hold, >= 0: 1 for WGAN-GP, 0 for R1 and R2.
        one_sided: penalise only norms above the target.
        norm: "sample": one norm per sample over all other dimensions; "channel": one norm per position over
            dimension 1 alone, averaged over samples and positions.
        reduction: "mean", "sum", or "none" for one value per norm.
        weight: a factor on the value (lambda_gp), applied in the kernel at no cost.
        return_norms: also return the norms, detached, (B,) or (B, H, W, ...) for "channel".
        backend: which backend to use.

    Returns:
        The penalty, 0-dimensional (or one per norm for "none"), in fp32 (fp64 for fp64); with ``return_norms`` the
        pair (penalty, norms).

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    _check_penalty_arguments(gradients, target, norm, reduction, weight)
    rows, positions = gradients, None
    if norm == "channel":
        rows = gradients.movedim(1, -1)
        positions = rows.shape[:-1]
        rows = rows.reshape(-1, rows.shape[-1])
    if torch.compiler.is_compiling():
        value, norms, _ = torch.ops.wgan_fast.gradient_norm_penalty(rows, target, one_sided, weight, reduction, backend)
    else:
        value, norms = ops.gradient_norm_penalty(
            rows, float(target), bool(one_sided), float(weight), reduction, backend
        )
    if positions is not None:
        norms = norms.reshape(positions)
        value = value.reshape(positions) if reduction == "none" else value
    return (value, norms.detach()) if return_norms else value


def _check_penalty_arguments(gradients: Tensor, target: float, norm: str, reduction: str, weight: float) -> None:
    check_dtype("gradients", gradients)
    if gradients.dim() < 2:
        raise ValueError(f"gradients: expected shape (B, ...) with at least 2 dimensions, got {tuple(gradients.shape)}")
    _check_number("target", target)
    _check_number("weight", weight)
    if not 0 <= target < math.inf:
        raise ValueError(f"target={target!r}: expected a finite number >= 0")
    if not -math.inf < weight < math.inf:
        raise ValueError(f"weight={weight!r}: expected a finite number")
    if norm not in ("sample", "channel"):
        raise ValueError(f"norm={norm!r}: expected 'sample' or 'channel'")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r}: expected 'mean', 'sum' or 'none'")


def _check_number(name: str, value: object) -> None:
    """A tensor of one value serves as well, unless it requires grad: its gradient would be lost."""
    if isinstance(value, (int, float)):
        return
    graph = isinstance(value, Tensor) and (value.numel() != 1 or value.requires_grad)
    if graph or not hasattr(value, "__float__"):
        raise TypeError(f"{name}={value!r}: expected a number, without a gradient")
