"""The specification: every operation of wgan_fast in a few lines of plain PyTorch.

Each function here has the name, the arguments and the return value of its counterpart in ``backends/``, so the
reference is itself a backend: it runs everywhere, and every other backend is compared with it.

Conventions shared by all backends
    tensors      lists of equal length describe one parameter each; an absent list (no momentum, say) is empty
    indices      an in-place operation returns the positions of the tensors it did *not* take (here: none)
    arithmetic   in fp32 for bf16, fp16 and fp32, in fp64 for fp64; rounded once, when stored
    lo, hi       bounds of the clamp; -inf and +inf leave everything as it is, NaN included
"""

from __future__ import annotations

import math
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
    ``slope``, the gradient of the value with respect to ``gradients``, in their dtype (None unless needed).
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

    ``max_exp_avg_sqs`` is empty except for the AMSGrad variant.
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


# ---------------------------------------------------------------------------------- activation_double_backward


def activation_double_backward(
    saved: Tensor,
    grad_output: Tensor | None,
    grad_grad_input: Tensor,
    *,
    activation: str,
    options: Sequence[float],
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of an activation's backward, grad_output f(saved), given grad_grad_input::

        to grad_output   grad_grad_input f(saved)
        to saved         grad_grad_input grad_output f'(saved)

    f is the activation's slope as a function of what its forward pass saved: the input, or the output where the
    name ends in ``_result``. Those that are not ``needed`` are None; ``grad_output`` is not read for the first.
    Differentiable in the ordinary way here, to any order.
    """
    wide = accumulation_dtype(saved.dtype)
    slope, curvature = activation_slope(saved.to(wide), activation, options)
    v = grad_grad_input.to(wide)
    to_saved = None
    if needed[1]:
        assert grad_output is not None
        to_saved = (v * grad_output.to(wide) * curvature).to(saved.dtype)
    return (v * slope).to(saved.dtype) if needed[0] else None, to_saved


def activation_slope(s: Tensor, activation: str, options: Sequence[float] = ()) -> tuple[Tensor, Tensor]:
    """f(s) and f'(s). Finite for every finite s; infinities and NaN go where autograd's formulas send them.

    Products are taken from the factor that vanishes outwards, so that none overflows before it is multiplied by 0.
    """
    match activation:
        case "silu":
            p, q = s.sigmoid(), (-s).sigmoid()
            return p + s * p * q, 2 * p * q + s * (p * q) * (q - p)
        case "gelu":
            density = (-0.5 * s * s).exp() * (1 / math.sqrt(2 * math.pi))
            return 0.5 * (-s * math.sqrt(0.5)).erfc() + s * density, 2 * density - s * (s * density)
        case "gelu_tanh":
            k, c = math.sqrt(2 / math.pi), 0.044715
            u = k * s * (1 + c * s * s)
            half, other = (2 * u).sigmoid(), (-2 * u).sigmoid()
            m = 4 * half * other  # 1 - tanh² u
            mu = k * (m + 3 * c * s * (s * m))  # m u'
            muu = k * (mu + 3 * c * s * (s * mu))  # m u'²
            return half + 0.5 * s * mu, mu + s * (3 * k * c * (s * m) - (half - other) * muu)
        case "elu":
            alpha, scale, input_scale = options
            e = (torch.where(s >= 0, 0.0, s) * input_scale).exp() * (alpha * scale * input_scale)
            return torch.where(s > 0, scale, e), torch.where(s >= 0, 0.0, e * input_scale)
        case "elu_result":
            alpha, scale, input_scale = options
            slope = torch.where(s > 0, scale, (torch.where(s >= 0, 0.0, s) + alpha * scale) * input_scale)
            return slope, (~(s >= 0)).to(s.dtype) * input_scale
        case "softplus":
            beta, threshold = options
            z = s * beta
            # At the threshold itself torch has the curve's slope, and no derivative of it.
            curve = torch.where(z >= threshold, threshold, z)
            p, q = curve.sigmoid(), (-curve).sigmoid()
            return torch.where(z > threshold, 1.0, p), torch.where(z >= threshold, 0.0, beta * p * q)
        case "tanh_result":
            return 1 - s * s, -2 * s
        case "sigmoid_result":
            return s * (1 - s), 1 - 2 * s
        case "mish":
            p, q, softplus = s.sigmoid(), (-s).sigmoid(), torch.nn.functional.softplus(s)
            t = softplus.tanh()
            mp = 4 * (2 * softplus).sigmoid() * (-2 * softplus).sigmoid() * p  # (1 - t²) p
            return t + s * mp, 2 * mp + s * mp * (q - 2 * t * p)
        case "hardswish":
            low, high = s <= -3, s >= 3
            slope = torch.where(low, 0.0, torch.where(high, 1.0, s / 3 + 0.5))
            return slope, ((s > -3) & (s < 3)).to(s.dtype) / 3
        case "softsign":
            r = 1 / (1 + s.abs())
            undefined = s - s  # NaN at the infinities, as s / (1 + |s|) is
            return r * r + undefined, -2 * s.sgn() * r * r * r + undefined
        case "logsigmoid":
            p, q = s.sigmoid(), (-s).sigmoid()
            return q, -p * q
    raise ValueError(f"activation={activation!r}: no such activation")


# ----------------------------------------------------------------------------------------- norm_double_backward


def norm_double_backward(
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    grad_output: Tensor | None,
    grad_grad_input: Tensor,
    *,
    num_groups: int,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of a norm's backward where v = grad_grad_input arrives at it, with g = grad_output.

    x is (B, C, ...), one row per sample and group of channels, mean and rstd (1 / sqrt(variance + eps)) have one value
    per row, weight one per channel. For a row, with x̂ = (x - mean) rstd and ĝ = g weight, the backward is
    dx = rstd (ĝ - m1 - x̂ m2), m1 = mean ĝ, m2 = mean ĝ x̂. With c = mean v, d = mean v x̂, e = mean v ĝ and
    k = rstd (v - c - x̂ d):

        to grad_output   weight k
        to x             -rstd² ((v - c) m2 + (ĝ - m1) d + x̂ (e - c m1 - 3 d m2))
        to weight        Σ g k over samples and positions

    Without a mean (rms norm) x̂ = x rstd, and c and m1 are 0. Those that are not ``needed`` are None; the first does
    not read ``grad_output``. Derivatives of the results here hold mean and rstd fixed, unless these have a graph.
    """
    wide = accumulation_dtype(x.dtype)

    samples, channels = x.shape[:2]
    size = channels // num_groups * x.shape[2:].numel()

    def rows(values: Tensor) -> Tensor:
        return values.reshape(-1, num_groups, size).to(wide)

    r = rstd.reshape(samples, num_groups, 1).to(wide)
    normalized = rows(x) if mean is None else rows(x) - mean.reshape(r.shape).to(wide)
    normalized, v = normalized * r, rows(grad_grad_input)
    w: Tensor | float = 1.0
    if weight is not None:
        w = rows(weight.reshape(-1, *[1] * (x.dim() - 2)).expand(x.shape[1:]))
    c = v.mean(2, keepdim=True) if mean is not None else 0.0
    d = (v * normalized).mean(2, keepdim=True)
    k = r * (v - c - normalized * d)
    to_output = (w * k).reshape(x.shape).to(x.dtype) if needed[0] else None
    if grad_output is None:
        return to_output, None, None
    g = rows(grad_output)
    to_x = to_weight = None
    if needed[1]:
        weighted = g * w
        m1 = weighted.mean(2, keepdim=True) if mean is not None else 0.0
        m2 = (weighted * normalized).mean(2, keepdim=True)
        along = (v * weighted).mean(2, keepdim=True) - c * m1 - 3 * d * m2
        to_x = (-r * r * ((v - c) * m2 + (weighted - m1) * d + normalized * along)).reshape(x.shape).to(x.dtype)
    if needed[2] and weight is not None:
        to_weight = (g * k).reshape(samples, channels, size * num_groups // channels).sum((0, 2)).to(weight.dtype)
    return to_output, to_x, to_weight
