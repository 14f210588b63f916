"""The public stateless operations: contract, validation, dispatch.

What they compute is written in ``reference.py``; who computes it is decided in ``backends``. Every function takes
``backend="auto"``: the first usable backend for these tensors, or the one named (see ``available_backends``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from wgan_fast import ops
from wgan_fast.memory_layout import has_overlap
from wgan_fast.reference import accumulation_dtype

__all__ = ["adam_step_", "clip_weights_", "gradient_norm_penalty", "interpolate", "rmsprop_step_"]

Reduction = Literal["mean", "sum", "none"]
Norm = Literal["sample", "channel"]

_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_DTYPE_NAMES = "float32, float64, bfloat16 or float16"
_PLAIN_TYPES = frozenset({Tensor, nn.Parameter})


# ------------------------------------------------------------------------------------------------ clip_weights


def clip_weights_(
    parameters: nn.Module | Tensor | Iterable[Tensor],
    clip_value: float | tuple[float, float],
    *,
    backend: str = "auto",
) -> None:
    """Clamp all weights of a critic to [-clip_value, clip_value] in place, in one pass over memory.

    Equivalent to::

        with torch.no_grad():
            for p in critic.parameters():
                p.clamp_(-clip_value, clip_value)

    and bit-exact with it: NaN stays NaN, -0.0 stays -0.0. Buffers (running statistics) are not touched. The
    weight clipping of Arjovsky, Chintala & Bottou 2017 (Wasserstein GAN, algorithm 1, line 7); the paper clips
    *after* the optimizer's step, with clip_value = 0.01. ``wgan_fast.optim`` does both in the same pass.

    Args:
        parameters: a module, one tensor, or an iterable of tensors; fp32, fp64, bf16 or fp16, of any shape,
            layout and device, mixed as they come. A tensor that occurs twice is clamped once.
        clip_value: a positive number c for [-c, c], or a pair (lo, hi) with lo <= hi.
        backend: who computes it.

    Raises:
        TypeError, ValueError: an argument is not as above; nothing has been modified then.
    """
    lo, hi = clip_bounds(clip_value)
    tensors = _tensor_list(parameters)
    if torch.compiler.is_compiling():
        torch.ops.wgan_fast.clip_weights_(tensors, lo, hi, backend)
    elif tensors:
        ops.clip_weights_(tensors, lo, hi, "reference" if needs_reference() else backend)


def clip_bounds(clip_value: float | tuple[float, float]) -> tuple[float, float]:
    """(lo, hi) of a ``clip_value``: a positive number, or a pair lo <= hi."""
    expected = "expected a positive number c, for [-c, c], or a pair (lo, hi) with lo <= hi"
    try:
        if isinstance(clip_value, Sequence):
            lo, hi = (float(bound) for bound in clip_value)
        else:
            hi = float(clip_value)
            lo = -hi
    except (TypeError, ValueError):
        raise TypeError(f"clip_value={clip_value!r}: {expected}") from None
    if not lo <= hi or (not isinstance(clip_value, Sequence) and hi <= 0):
        raise ValueError(f"clip_value={clip_value!r}: {expected}")
    return lo, hi


def _tensor_list(parameters: nn.Module | Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The tensors of a module or an iterable, each once, checked."""
    if isinstance(parameters, nn.Module):
        tensors: list[Tensor] = list(parameters.parameters())
    elif isinstance(parameters, Tensor):
        tensors = [parameters]
    else:
        try:
            tensors = list(parameters)
        except TypeError:
            raise TypeError(
                f"parameters: expected a module, a tensor or an iterable of tensors, got {type(parameters).__name__}"
            ) from None
    # Sets first, explanations only when something is wrong: a critic of a hundred tensors is checked in 20 us.
    if not _PLAIN_TYPES.issuperset(map(type, tensors)):
        _refuse_other_than_tensors(tensors)
    if not _DTYPES.issuperset([tensor.dtype for tensor in tensors]):
        i = next(i for i, tensor in enumerate(tensors) if tensor.dtype not in _DTYPES)
        raise TypeError(f"parameters[{i}]: expected {_DTYPE_NAMES}, got {tensors[i].dtype}")
    for i in [i for i, tensor in enumerate(tensors) if not tensor.is_contiguous() and has_overlap(tensor)]:
        raise ValueError(
            f"parameters[{i}]: an expanded tensor (shape {tuple(tensors[i].shape)}, strides {tensors[i].stride()}) "
            "cannot be changed in place; expected a tensor whose elements have memory of their own"
        )
    return tensors


def _refuse_other_than_tensors(tensors: Sequence[object]) -> None:
    for i, tensor in enumerate(tensors):
        if isinstance(tensor, Tensor):
            continue
        hint = " (named_parameters() yields pairs: pass parameters())" if isinstance(tensor, tuple) else ""
        raise TypeError(f"parameters[{i}]: expected a tensor, got {type(tensor).__name__}{hint}")


# ---------------------------------------------------------------------------------------------- optimizer_step


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
    """One RMSprop update of all parameters, and the clamp, in one pass over memory; everything in place.

    Equivalent to ``torch.optim.rmsprop.rmsprop(...)`` followed by ``clip_weights_(params, clip_value)``. The
    class ``wgan_fast.optim.RMSprop`` keeps the state for you.

    Args:
        params, grads, square_avgs, steps: one tensor a parameter; ``steps`` are 0-dim fp32 counts.
        grad_avgs: empty, or one tensor a parameter for the centred variant.
        momentum_buffers: empty where ``momentum`` is 0, else one tensor a parameter.
        lr, alpha, eps, weight_decay, momentum, maximize: as in ``torch.optim.RMSprop``.
        clip_value: as in ``clip_weights_``; None leaves the weights unclipped.

    Raises:
        ValueError: lists of unequal length, or a gradient whose shape is not its parameter's.
    """
    lists = [params, grads, square_avgs, grad_avgs, momentum_buffers, steps]
    _check_lists(lists)
    lo, hi = (-math.inf, math.inf) if clip_value is None else clip_bounds(clip_value)
    numbers = {"alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
    if torch.compiler.is_compiling():
        torch.ops.wgan_fast.rmsprop_step_(*lists, lr=lr, **numbers, maximize=maximize, lo=lo, hi=hi, backend=backend)
    else:
        ops.rmsprop_step_(lists, backend, lr=lr, **numbers, maximize=maximize, lo=lo, hi=hi)


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
    """One Adam update of all parameters, and the clamp, in one pass over memory; everything in place.

    Equivalent to ``torch.optim.adam.adam(...)`` followed by ``clip_weights_(params, clip_value)``. The class
    ``wgan_fast.optim.Adam`` keeps the state for you. Arguments and errors as in ``rmsprop_step_``;
    ``max_exp_avg_sqs`` is empty, or one tensor a parameter for AMSGrad.
    """
    lists = [params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps]
    _check_lists(lists)
    lo, hi = (-math.inf, math.inf) if clip_value is None else clip_bounds(clip_value)
    numbers = {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
    flags = {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
    if torch.compiler.is_compiling():
        torch.ops.wgan_fast.adam_step_(*lists, lr=lr, **numbers, **flags, lo=lo, hi=hi, backend=backend)
    else:
        ops.adam_step_(lists, backend, lr=lr, **numbers, **flags, lo=lo, hi=hi)


def _check_lists(lists: list[list[Tensor]]) -> None:
    params, grads = lists[:2]
    lengths = [len(tensors) for tensors in lists]
    if any(length not in (0, len(params)) for length in lengths) or len(grads) != len(params):
        raise ValueError(f"expected lists of {len(params)} tensors, one a parameter (or none), got {lengths}")
    alike = [param.shape for param in params] == [grad.shape for grad in grads]
    dtypes = [param.dtype for param in params]
    if alike and dtypes == [grad.dtype for grad in grads] and _DTYPES.issuperset(dtypes):
        return
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if param.dtype not in _DTYPES:
            raise TypeError(f"params[{i}]: expected {_DTYPE_NAMES}, got {param.dtype}")
        if param.shape != grad.shape or param.dtype != grad.dtype:
            raise ValueError(f"grads[{i}]: expected {_describe(param)}, as params[{i}], got {_describe(grad)}")


# ------------------------------------------------------------------------------------------------- interpolate


def interpolate(
    real: Tensor,
    fake: Tensor,
    alpha: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Random points on the straight lines between real and generated samples, one alpha a sample.

    Equivalent to::

        alpha = torch.rand(len(real), device=real.device)      # unless given
        x = torch.lerp(fake, real, alpha.view(-1, 1, 1, 1))    # fake + alpha (real - fake)

    Gulrajani et al. 2017 (Improved Training of Wasserstein GANs, algorithm 1, line 6). Arithmetic in fp32 (fp64
    for fp64). Differentiable with respect to real, fake and alpha.

    Args:
        real, fake: (B, ...), the same shape, dtype and device.
        alpha: (B,) or (B, 1, ..., 1), values usually in [0, 1); drawn uniformly when absent, in fp32 (fp64 for
            fp64), because bf16 has only 256 values there.
        generator: where the draw comes from; the device's default generator when absent.
        out: written instead of a new tensor; the shape, dtype and device of real. It may be a slice of a larger
            buffer, so x can be put straight into its place in a batch [real; fake; x].
        backend: who computes it.

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
    if needs_reference(real, fake, alpha):
        backend = "reference"
    return ops.interpolate(real, fake, alpha, backend, out)


def _check_pair(real: Tensor, fake: Tensor) -> None:
    if real.shape != fake.shape or real.dtype != fake.dtype or real.device != fake.device:
        raise ValueError(
            f"real and fake: expected the same shape, dtype and device, got {_describe(real)} and {_describe(fake)}"
        )
    if real.dtype not in _DTYPES:
        raise TypeError(f"real: expected {_DTYPE_NAMES}, got {real.dtype}")
    if real.dim() == 0:
        raise ValueError("real: expected a batch of shape (B, ...), got a 0-dimensional tensor")


def _per_sample(alpha: Tensor, real: Tensor) -> Tensor:
    """alpha as (B,) in the accumulation dtype."""
    batch = real.shape[0]
    if not isinstance(alpha, Tensor):
        raise TypeError(f"alpha={alpha!r}: expected a tensor with one value a sample, of shape ({batch},)")
    if alpha.numel() != batch or (alpha.dim() > 0 and alpha.shape[0] != batch) or alpha.dim() == 0:
        raise ValueError(
            f"alpha: expected one value a sample, shape ({batch},) or ({batch}, 1, ..., 1), got {tuple(alpha.shape)}"
        )
    if alpha.device != real.device:
        raise ValueError(f"alpha: expected a tensor on {real.device}, as real is, got one on {alpha.device}")
    wide = accumulation_dtype(real.dtype)
    return alpha if alpha.dim() == 1 and alpha.dtype == wide else alpha.reshape(batch).to(wide)


def _check_out(out: Tensor, real: Tensor, inputs: Sequence[Tensor]) -> None:
    if out.shape != real.shape or out.dtype != real.dtype or out.device != real.device:
        raise ValueError(f"out: expected {_describe(real)}, got {_describe(out)}")
    if has_overlap(out):
        raise ValueError(f"out: expected a tensor whose elements have memory of their own, got strides {out.stride()}")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (out, *inputs)):
        raise ValueError("out: cannot be used where a gradient is recorded; detach real, fake, alpha and out first")


# --------------------------------------------------------------------------------------- gradient_norm_penalty


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

    but for a zero gradient, where these lines give NaN or an arbitrary direction: here the value is
    (0 - target)² and the slope is exactly 0. Gulrajani et al. 2017, equation 3; one-sided: Petzka et al. 2018
    (WGAN-LP), equation 8. The value and its slope come out of one reading of ``gradients``, in fp32 (fp64 for
    fp64) and in a fixed order: the same input gives the same bits.

    Differentiable once with respect to ``gradients``, which gives the critic's double backward; a further
    derivative raises a sentence (``backend="reference"`` has them all).

    Args:
        gradients: (B, ...), at least 2-dimensional: the gradient of the critic's scores with respect to its input.
        target: the norm to hold, >= 0: 1 for WGAN-GP, 0 for R1 and R2.
        one_sided: penalise only norms above the target.
        norm: "sample": one norm a sample over all other dimensions; "channel": one norm a position over
            dimension 1 alone, averaged over samples and positions.
        reduction: "mean", "sum", or "none" for one value a norm.
        weight: a factor on the value (lambda_gp), applied inside at no cost.
        return_norms: also return the norms, detached, (B,) or (B, H, W, ...) for "channel".
        backend: who computes it.

    Returns:
        The penalty, 0-dimensional (or one a norm for "none"), in fp32 (fp64 for fp64); with ``return_norms`` the
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
        if needs_reference(gradients):
            backend = "reference"
        value, norms = ops.gradient_norm_penalty(
            rows, float(target), bool(one_sided), float(weight), reduction, backend
        )
    if positions is not None:
        norms = norms.reshape(positions)
        value = value.reshape(positions) if reduction == "none" else value
    return (value, norms.detach()) if return_norms else value


def _check_penalty_arguments(gradients: Tensor, target: float, norm: str, reduction: str, weight: float) -> None:
    if not isinstance(gradients, Tensor):
        raise TypeError(f"gradients: expected a tensor, got {type(gradients).__name__}")
    if gradients.dtype not in _DTYPES:
        raise TypeError(f"gradients: expected {_DTYPE_NAMES}, got {gradients.dtype}")
    if gradients.dim() < 2:
        raise ValueError(f"gradients: expected shape (B, ...) with at least 2 dimensions, got {tuple(gradients.shape)}")
    if not 0 <= target < math.inf:
        raise ValueError(f"target={target!r}: expected a finite number >= 0")
    if not -math.inf < weight < math.inf:
        raise ValueError(f"weight={weight!r}: expected a finite number")
    if norm not in ("sample", "channel"):
        raise ValueError(f"norm={norm!r}: expected 'sample' or 'channel'")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r}: expected 'mean', 'sum' or 'none'")


def needs_reference(*tensors: Tensor) -> bool:
    """True where a kernel must not look at addresses: tensor subclasses and torch.func transforms."""
    return not _PLAIN_TYPES.issuperset(map(type, tensors)) or torch._C._are_functorch_transforms_active()


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
