"""The specification: every operation of wgan_fast in a few lines of plain PyTorch.

Each function here has the name, the arguments and the return value of its counterpart in ``backends/``, so the
reference is itself a backend: the one that runs everywhere, and the one that every other is compared with.

Conventions shared by all backends
    tensors      lists of equal length describe one parameter each; an absent list (no momentum, say) is empty
    indices      an in-place operation returns the positions of the tensors it did *not* take (here: none)
    arithmetic   in fp32 for bf16, fp16 and fp32, in fp64 for fp64; rounded once, when stored
    lo, hi       bounds of the clamp; -inf and +inf leave everything as it is, NaN included
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wgan_fast.dtypes import accumulation_dtype as accumulation_dtype  # it belongs to the specification
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

DEVICE_TYPES: tuple[str, ...] = ("*",)


# ------------------------------------------------------------------------------------------------ clip_weights


@torch.no_grad()
def clip_weights_(tensors: Sequence[Tensor], lo: float, hi: float) -> list[int]:
    """Clamp every tensor to [lo, hi] in place; NaN and -0.0 stay as they are."""
    for tensor in tensors:
        tensor.clamp_(lo, hi)
    return []


# ------------------------------------------------------------------------------------------------- interpolate


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, out: Tensor | None = None) -> Tensor:
    """x_b = fake_b + alpha_b (real_b - fake_b); ``alpha`` has shape (B,) and the accumulation dtype."""
    wide = alpha.dtype
    weight = alpha.reshape(-1, *[1] * (real.dim() - 1))
    mixed = torch.lerp(fake.to(wide), real.to(wide), weight).to(real.dtype)
    return mixed if out is None else out.copy_(mixed)


# --------------------------------------------------------------------------------------- gradient_norm_penalty


def gradient_norm_penalty(
    gradients: Tensor, *, target: float, one_sided: bool, weight: float, reduction: str, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Value, norms and slope of the penalty over the rows of ``gradients`` (first dimension: samples).

    With n_b = ‖g_b‖₂ and e_b = n_b - target (one-sided: max(0, n_b - target)):

        value_b = weight e_b²                            summed, averaged or left per sample by ``reduction``
        slope_b = weight scale 2 e_b g_b / n_b           scale = 1/B for "mean", else 1; 0 where n_b = 0

    Returns ``value`` (0-dim, or (B,) for "none") and ``norms`` (B,), both in the accumulation dtype, and
    ``slope``, the gradient of the value with respect to ``gradients``, in their dtype (None unless asked for).
    Value and norms are differentiable in the ordinary way here, to any order.
    """
    wide = gradients.flatten(1).to(accumulation_dtype(gradients.dtype))
    squares = (wide * wide).sum(dim=1)
    zero = squares == 0
    # The inner where keeps the root's infinite slope at 0 out of autograd's products (inf * 0 is NaN).
    norms = torch.where(zero, 0, torch.where(zero, 1, squares).sqrt())
    excess = norms - target
    if one_sided:
        excess = excess.clamp_min(0)
    per_sample = weight * excess * excess
    scale = weight
    if reduction == "mean":
        value, scale = per_sample.mean(), weight / max(gradients.shape[0], 1)
    else:
        value = per_sample.sum() if reduction == "sum" else per_sample
    if not with_slope:
        return value, norms, None
    coefficient = torch.where(zero, 0, 2 * scale * excess / norms).detach()
    slope = coefficient.unsqueeze(1) * wide.detach()
    return value, norms, slope.reshape(gradients.shape).to(gradients.dtype)


# ---------------------------------------------------------------------------------------------- optimizer_step


@torch.no_grad()
def rmsprop_step_(lists: Sequence[Sequence[Tensor]], options: RMSpropOptions) -> list[int]:
    """One RMSprop update (Tieleman & Hinton, as ``torch.optim.RMSprop`` computes it), then the clamp.

    ``grad_avgs`` is empty unless the variance is centred, ``momentum_buffers`` unless ``momentum`` is positive;
    ``steps`` counts updates, one 0-dim tensor per parameter.
    """
    params, grads, square_avgs, grad_avgs, momentum_buffers, steps = lists
    lr, alpha, eps, weight_decay, momentum, maximize, lo, hi = options
    for i, param in enumerate(params):
        steps[i].add_(1)
        wide = accumulation_dtype(param.dtype)
        p, g, v = param.to(wide), grads[i].to(wide), square_avgs[i].to(wide)
        if maximize:
            g = -g
        if weight_decay != 0:
            g = g.add(p, alpha=weight_decay)
        v = (v * alpha).addcmul_(g, g, value=1 - alpha)
        square_avgs[i].copy_(v)
        variance = v
        if grad_avgs:
            mean = grad_avgs[i].to(wide).lerp(g, 1 - alpha)
            grad_avgs[i].copy_(mean)
            variance = v.addcmul(mean, mean, value=-1)
        denominator = variance.sqrt() + eps
        if momentum > 0:
            buffer = (momentum_buffers[i].to(wide) * momentum).addcdiv_(g, denominator)
            momentum_buffers[i].copy_(buffer)
            p = p - lr * buffer
        else:
            p = p - lr * g / denominator
        param.copy_(p).clamp_(lo, hi)
    return []


@torch.no_grad()
def adam_step_(lists: Sequence[Sequence[Tensor]], options: AdamOptions) -> list[int]:
    """One Adam update (Kingma & Ba 2015, algorithm 1, as ``torch.optim.Adam`` computes it), then the clamp.

    ``max_exp_avg_sqs`` is empty unless the AMSGrad variant is asked for.
    """
    params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps = lists
    lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize, lo, hi = options
    for i, param in enumerate(params):
        step = steps[i].add_(1)
        wide = accumulation_dtype(param.dtype)
        p, g = param.to(wide), grads[i].to(wide)
        if maximize:
            g = -g
        if weight_decay != 0:
            if decoupled_weight_decay:
                p = p * (1 - lr * weight_decay)
            else:
                g = g.add(p, alpha=weight_decay)
        m = exp_avgs[i].to(wide).lerp(g, 1 - beta1)
        v = (exp_avg_sqs[i].to(wide) * beta2).addcmul_(g, g, value=1 - beta2)
        exp_avgs[i].copy_(m)
        exp_avg_sqs[i].copy_(v)
        if max_exp_avg_sqs:
            v = torch.maximum(max_exp_avg_sqs[i].to(wide), v)
            max_exp_avg_sqs[i].copy_(v)
        count = step.to(dtype=torch.float64, device=p.device)
        denominator = v.sqrt() / (1 - beta2**count).sqrt() + eps
        p = p - lr / (1 - beta1**count) * m / denominator
        param.copy_(p).clamp_(lo, hi)
    return []
