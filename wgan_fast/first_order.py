"""Gradient penalties from first-order passes, for critics that have no double backward.

With g_b the input gradient and u_b = ∂P/∂g_b held fixed, the penalty's gradient with respect to the weights θ is that
of a directional derivative,

    ∇_θ P = ∇_θ Σ_b ⟨u_b, ∇ₓD(x_b; θ)⟩,

which needs no second backward pass: ``"forward"`` takes it by forward-mode differentiation, ``"difference"`` from two
ordinary forward passes,

    ⟨u_b, ∇ₓD(x_b)⟩ ≈ ‖u_b‖ (D(x_b + h_b e_b) - D(x_b - h_b e_b)) / 2h_b,   e_b = u_b / ‖u_b‖.

The difference is off by a term of h², and by the rounding of the scores over h; h_b = ε^(1/3) ‖x_b‖, with ε that of
the arithmetic, balances the two. A kink between the two points makes it wrong by far more than either, so
``"difference"`` refuses critics that are not differentiable everywhere. As each sample has a step of its own, it is for
critics that score samples one by one: BatchNorm with batch statistics is refused, minibatch statistics are not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from wgan_fast.critic_gradients import Critic, first_output, input_gradient
from wgan_fast.critic_modules import submodules
from wgan_fast.double_backward import activations, pooling
from wgan_fast.dtypes import accumulation_dtype

Method = Literal["exact", "forward", "difference"]
Scores = Callable[[Tensor], Tensor]
"""The critic's forward pass, from points to scores (B, ...); those of a sample are summed."""


def first_order_penalty(
    critic: Critic,
    x: Tensor,
    critic_args: Sequence[Any],
    critic_kwargs: Mapping[str, Any],
    method: Method,
    penalty_of: Callable[[Tensor], tuple[Tensor, Tensor]],
    scaler: Any = None,
) -> tuple[Tensor, Tensor]:
    """Value and norms of a penalty; the value has a gradient with respect to the critic's weights.

    Args:
        critic, critic_args, critic_kwargs, scaler: as in ``gradient_penalty``.
        x: the points, (B, ...), detached.
        method: "forward" or "difference".
        penalty_of: from input gradients to the value (0-dimensional, or one per sample) and the norms.

    Raises:
        ValueError: an unknown method, or "difference" for a critic with kinks.
        RuntimeError: "forward" meets an operation without forward-mode differentiation.
    """
    if method not in ("forward", "difference"):
        raise ValueError(f"method={method!r}: expected 'exact', 'forward' or 'difference'")
    random_state = _RandomState(x.device)
    with _RefuseKinks() if method == "difference" else nullcontext(), torch.no_grad():
        gradients = input_gradient(critic, x, critic_args, critic_kwargs, scaler=scaler).detach()
    if not torch.is_grad_enabled():
        return penalty_of(gradients)
    value, norms = penalty_of(gradients.requires_grad_())
    (slope,) = torch.autograd.grad(value.sum(), gradients)
    along = _forward if method == "forward" else _difference
    slopes = along(lambda points: first_output(critic(points, *critic_args, **critic_kwargs)), x, slope, random_state)
    if value.dim() == 0:
        slopes = slopes.sum()
    elif value.shape != slopes.shape:
        raise ValueError(f"reduction='none': method={method!r} gives one value per sample, not {tuple(value.shape)}")
    # The value is exact; the directional derivative is added only for its gradient.
    return value.detach() + (slopes - slopes.detach()), norms


def approximate_r1_penalty(
    critic: Critic,
    x: Tensor,
    sigma: float,
    *,
    weight: float = 1.0,
    critic_args: Sequence[Any] = (),
    critic_kwargs: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """mean_b (D(x_b) - D(x_b + sigma e_b))², e_b standard normal: the approximate R1 of Lin et al. 2025 (APT).

    Equivalent to::

        noisy = x + sigma * torch.randn_like(x)
        penalty = weight * ((critic(x) - critic(noisy)) ** 2).mean()

    Two ordinary forward passes and no input gradient, so it works with critics that have no double backward. Its
    expectation is sigma² times R1 for small sigma, mean_b ‖g_b‖², but one draw of e_b sees the gradient along a single
    direction: the gradient of one draw with respect to the weights is 0.8 to 1.0 (relative) away from R1's. For R1
    itself without a double backward: ``r1_penalty(critic, x, method="forward")`` or ``method="difference"``.

    Args:
        critic: as in ``gradient_penalty``.
        x: (B, ...), real samples; detached.
        sigma: the standard deviation of the noise, > 0; 0.01 for images in the paper, 0.1 for videos.
        weight: lambda.
        critic_args, critic_kwargs: passed on after x.
        generator: draws the noise; the device's default generator when absent.

    Raises:
        ValueError: sigma is not positive and finite.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma={sigma!r}: expected a finite number > 0")
    x = x.detach()
    noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    scores, noisy = (
        first_output(critic(points, *critic_args, **(critic_kwargs or {}))) for points in (x, x + sigma * noise)
    )
    difference = (scores - noisy).to(accumulation_dtype(scores.dtype))
    return weight * difference.square().mean()


class _RandomState:
    """The state of the random generators, so that each pass of a critic with dropout has the same masks."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def again(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[] if self.cuda is None else [self.device]):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


def _forward(scores: Scores, x: Tensor, slope: Tensor, random_state: _RandomState) -> Tensor:
    """(B,): Σ over a sample's values of slope · ∇ₓD(x), with slope held fixed."""
    with forward_ad.dual_level(), random_state.again(), _DifferentiableTangents():
        try:
            values = scores(forward_ad.make_dual(x, slope.to(x.dtype)))
        except (NotImplementedError, RuntimeError) as error:
            if "forward" not in str(error):
                raise
            raise RuntimeError(_NO_FORWARD_MODE.format(error)) from error
        tangent = forward_ad.unpack_dual(values).tangent
    assert isinstance(tangent, Tensor)  # the input gradient has found that the scores depend on x
    return _per_sample(tangent)


_NO_FORWARD_MODE = (
    "method='forward': the critic has an operation without forward-mode differentiation; method='difference' "
    "needs none, for critics without kinks [{}]"
)


class _DifferentiableTangents(TorchFunctionMode):
    """Within this context, functions whose tangents torch cannot differentiate are computed from others.

    torch's tangents of layer norm, and of batch norm and instance norm with batch statistics, hold mean and variance
    fixed when they are differentiated in turn, silently; those of softmax and logsumexp raise an error then. Seen in
    2.13. GLU's has no derivative at all.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _WITHOUT_TANGENTS:
            raise RuntimeError(_NO_FORWARD_MODE.format(func.__name__))
        return _COMPOSED.get(func, func)(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return _affine(_standardised(input, list(range(-len(normalized_shape), 0)), eps), weight, bias)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if running_mean is not None:
        raise RuntimeError(_NO_FORWARD_MODE.format("instance_norm that updates running statistics"))
    channels = (-1, *[1] * (input.dim() - 2))
    weight, bias = (None if each is None else each.reshape(channels) for each in (weight, bias))
    return _affine(_standardised(input, list(range(2, input.dim())), eps), weight, bias)


def _standardised(input: Tensor, dims: list[int], eps: float) -> Tensor:
    variance, mean = torch.var_mean(input, dims, correction=0, keepdim=True)
    return (input - mean) * torch.rsqrt(variance + eps)


def _affine(normalised: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = normalised if weight is None else normalised * weight
    return scaled if bias is None else scaled + bias


def _batch_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    training = kwargs.get("training", args[4] if len(args) > 4 else False)
    if training:
        raise RuntimeError(_COUPLED.format(method="forward"))
    return F.batch_norm(input, *args, **kwargs)


def _softmax(input: Tensor, dim: int, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    return _log_softmax(input, dim, dtype=dtype).exp()


def _log_softmax(input: Tensor, dim: int, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    wide = input if dtype is None else input.to(dtype)
    wide = wide - wide.detach().amax(dim, keepdim=True)
    return wide - wide.exp().sum(dim, keepdim=True).log()


def _softmin(input: Tensor, dim: int, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    return _softmax(-input, dim, dtype=dtype)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    values, gates = input.chunk(2, dim)
    return values * gates.sigmoid()


def _logsumexp(input: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    highest = input.detach().amax(dim, keepdim=True)
    result = (input - highest).exp().sum(dim, keepdim=True).log() + highest
    return result if keepdim else result.squeeze(dim)


_COMPOSED: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
    F.glu: _glu,
    F.softmin: _softmin,
    F.softmax: _softmax,
    torch.softmax: _softmax,
    torch.special.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.log_softmax: _log_softmax,
    torch.log_softmax: _log_softmax,
    torch.special.log_softmax: _log_softmax,
    Tensor.log_softmax: _log_softmax,
    torch.logsumexp: _logsumexp,
    torch.special.logsumexp: _logsumexp,
    Tensor.logsumexp: _logsumexp,
}
_WITHOUT_TANGENTS = frozenset({F.scaled_dot_product_attention, F.multi_head_attention_forward})


def _difference(scores: Scores, x: Tensor, slope: Tensor, random_state: _RandomState) -> Tensor:
    """The same from two passes, at most h² and the rounding of the scores over h away from it."""
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = (-1, *[1] * (x.dim() - 1))
    tiny = torch.finfo(wide).tiny
    length = slope.flatten(1).to(wide).norm(dim=1)
    step = _relative_step(x) * x.flatten(1).to(wide).norm(dim=1)
    step = torch.where(step > 0, step, _relative_step(x))
    offset = (slope.to(wide) * (step / length.clamp_min(tiny)).reshape(rows)).to(x.dtype)
    ahead, behind = x + offset, x - offset
    # The actual step: adding to x rounds it.
    distance = (ahead - behind).flatten(1).to(wide).norm(dim=1)
    with random_state.again():
        difference = _per_sample(scores(ahead))
    with random_state.again():
        difference = difference - _per_sample(scores(behind))
    slopes: Tensor = difference * (length / distance.clamp_min(tiny))
    return slopes


def _relative_step(x: Tensor) -> float:
    """ε^(1/3) of the coarsest arithmetic in use: that of x, or of autocast."""
    autocast = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
    return float(torch.finfo(dtype).eps ** (1 / 3))


def _per_sample(scores: Tensor) -> Tensor:
    return scores.flatten(1).sum(1) if scores.dim() > 1 else scores


# ------------------------------------------------------------------------------------------------ critics with kinks

_KINKED_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.Hardtanh,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Threshold,
    nn.SELU,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
_CLAMPS = ("clamp", "clamp_", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_", "clip", "clip_")
_KINKED_FUNCTIONS = frozenset(
    {
        *activations.REPLACEMENTS,
        *(function for function in pooling.REPLACEMENTS if "max" in getattr(function, "__name__", "")),
        F.hardswish,
        F.hardsigmoid,
        F.selu,
        torch.selu,
        *(getattr(owner, name) for owner in (torch, Tensor) for name in (*_CLAMPS, "maximum", "minimum")),
    }
)


class _RefuseKinks(TorchFunctionMode):
    """Within this context, a call of a function with kinks raises ValueError."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _KINKED_FUNCTIONS:
            raise ValueError(_KINKS.format(name=getattr(func, "__name__", func)))
        return func(*args, **(kwargs or {}))


def refuse_difference(critic: object) -> None:
    """Raise ValueError where the critic has a module with kinks or batch statistics, also inside of compiled ones."""
    for module in submodules(critic) if isinstance(critic, nn.Module) else ():
        kinked_elu = isinstance(module, nn.ELU) and module.alpha != 1
        if isinstance(module, _KINKED_MODULES) or kinked_elu:
            raise ValueError(_KINKS.format(name=type(module).__name__))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(_COUPLED.format(method="difference"))


_COUPLED = (
    "method={method!r}: the critic has BatchNorm with batch statistics, which couples the samples; expected "
    "method='exact', or the layer in evaluation mode"
)
_KINKS = (
    "method='difference': the critic uses {name}, and a difference across its kinks gives wrong gradients; "
    "method='forward' is exact for it, and so is method='exact'"
)
