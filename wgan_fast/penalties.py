"""Gradient penalties: points, the critic's scores there, the input gradient, the penalty on its norm.

    x    = points between real and fake (or one of them)
    g_b  = the gradient of critic(x)_b with respect to x_b
    P    = weight * mean_b (‖g_b‖₂ - target)²

``gradient_penalty`` is the general form, the named wrappers are the papers' settings of it. All return the
penalty *unweighted* unless ``weight`` is given: half of the field multiplies by lambda_gp outside, half inside.

Where it is used:

- Mixed precision: call it under ``torch.autocast``, and give the ``GradScaler`` as ``scaler``. The penalty's own
  arithmetic is fp32 (fp64 for fp64).
- torch.compile: a compiled critic has no double backward, and is refused. Compile the whole critic step. From torch
  2.13 on (2.11 refuses ``requires_grad_()``), with the gradient of the loss inside; the inner gradient needs
  ``trace_autograd_ops``::

      torch._dynamo.config.trace_autograd_ops = True

      @torch.compile(fullgraph=True)
      def critic_step(real, fake):
          penalty = gradient_penalty(critic, real, fake, weight=10.0)
          loss = critic(fake).mean() - critic(real).mean() + penalty
          return torch.autograd.grad(loss, list(critic.parameters()))

  From torch 2.6 on, without an option, with the inner gradient by ``torch.func`` and that of the loss outside::

      @torch.compile(fullgraph=True)
      def critic_loss(real, fake):
          x = interpolate(real, fake)
          gradients = torch.func.grad(lambda x: critic(x).sum())(x)
          return critic(fake).mean() - critic(real).mean() + gradient_norm_penalty(gradients, weight=10.0)

      critic_loss(real, fake).backward()

- DistributedDataParallel: give the wrapped critic, made with ``broadcast_buffers=False`` (two forward passes before
  a backward break otherwise: pytorch/pytorch#175024). Each rank penalises its own samples; the average of the
  gradients over ranks is that of the joined batch.
- Recurrent layers and attention: the critic's forward pass keeps off cuDNN's and the fused kernels, which have no
  double backward, and says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wgan_fast import double_backward
from wgan_fast.functional import Norm, Reduction, gradient_norm_penalty, interpolate

Points = Literal["mixed", "real", "fake", "dragan"]
Critic = Callable[..., Any]


def gradient_penalty(
    critic: Critic,
    real: Tensor | None,
    fake: Tensor | None,
    *,
    weight: float = 1.0,
    target: float = 1.0,
    one_sided: bool = False,
    points: Points = "mixed",
    alpha: Tensor | None = None,
    norm: Norm = "sample",
    critic_args: Sequence[Any] = (),
    critic_kwargs: Mapping[str, Any] | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
    scaler: Any = None,
    return_norms: bool = False,
    exact_shortcut: bool = True,
    backend: str = "auto",
) -> Any:
    """The gradient penalty of WGAN-GP and its relatives, ready to add to a critic's loss.

    Equivalent to::

        alpha = torch.rand(len(real), 1, 1, 1, device=real.device)
        x = (alpha * real + (1 - alpha) * fake).detach().requires_grad_()
        (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        penalty = weight * ((g.flatten(1).norm(2, dim=1) - target) ** 2).mean()

    Gulrajani et al. 2017, equation 3, with lambda_gp = ``weight``. Under ``torch.no_grad()`` the value alone is
    computed, for monitoring. No ``.grad`` and no ``requires_grad`` is changed, real and fake are detached.

    Args:
        critic: a module or function from (B, ...) to scores: (B,), (B, 1), (B, 1, h, w), or a tuple, list or dict
            whose first entry they are.
        real, fake: (B, ...), rank >= 2, of one shape; the one that ``points`` does not use may be None. A fake of
            another floating dtype (from autocast) is converted to real's.
        weight: lambda_gp; 10 in the paper.
        target: the norm to hold: 1, or 0 for R1 and R2.
        one_sided: penalise only norms above the target (WGAN-LP).
        points: "mixed" between real and fake (WGAN-GP), "real" (R1 with target=0), "fake" (R2), or "dragan"
            (around real).
        alpha: the position of the mixed points, (B,) or (B, 1, ..., 1); drawn uniformly when absent.
        norm, reduction, return_norms, backend: see ``gradient_norm_penalty``.
        critic_args, critic_kwargs: passed on after x (labels, conditions).
        generator: where random points come from; the device's default generator when absent.
        out: written with the random points ("mixed", "dragan") instead of a new tensor; the shape, dtype and device
            of real. In a batch [real; fake; x] laid out beforehand, x is so put straight into its place.
        scaler: a ``torch.amp.GradScaler``: scores are scaled before the input gradient is taken and the
            gradient unscaled after it, so that fp16 does not underflow in between. The penalty itself comes
            unscaled: scale the whole loss as usual.
        exact_shortcut: skip the arithmetic on exact zeros in the double backward of piecewise-linear
            activations; the numbers are the same to rounding. See ``wgan_fast.double_backward.exact_shortcut``.

    Returns:
        The penalty, 0-dimensional, fp32 (fp64 for fp64); with ``return_norms`` the pair (penalty, norms).

    Raises:
        TypeError, ValueError: an argument is not as above, or the scores do not depend on the input.
        RuntimeError: the critic is a compiled module, which has no double backward; it is welcome under no_grad.
    """
    check_critic(critic)
    gradients = input_gradient(
        critic,
        penalty_points(points, real, fake, alpha, generator, backend, out),
        critic_args,
        critic_kwargs,
        scaler=scaler,
        exact_shortcut=exact_shortcut,
    )
    return gradient_norm_penalty(
        gradients,
        target=target,
        one_sided=one_sided,
        norm=norm,
        reduction=reduction,
        weight=weight,
        return_norms=return_norms,
        backend=backend,
    )


def lipschitz_penalty(critic: Critic, real: Tensor, fake: Tensor, **options: Any) -> Any:
    """The one-sided penalty of WGAN-LP: mean_b max(0, ‖g_b‖ - 1)² at mixed points.

    Petzka, Fischer & Lukovnicov 2018 (On the Regularization of Wasserstein GANs), equation 8. Equivalent to
    ``gradient_penalty(critic, real, fake, one_sided=True, **options)``.
    """
    return gradient_penalty(critic, real, fake, one_sided=True, **options)


def r1_penalty(critic: Critic, real: Tensor, **options: Any) -> Any:
    """mean_b ‖g_b‖² at real samples. Mescheder et al. 2018, equation 9, is gamma / 2 times this: weight=gamma / 2.

    Equivalent to ``gradient_penalty(critic, real, None, points="real", target=0.0, **options)``.
    """
    return gradient_penalty(critic, real, None, points="real", target=0.0, **options)


def r2_penalty(critic: Critic, fake: Tensor, **options: Any) -> Any:
    """mean_b ‖g_b‖² at generated samples. Mescheder et al. 2018, equation 10, is gamma / 2 times this.

    Equivalent to ``gradient_penalty(critic, None, fake, points="fake", target=0.0, **options)``.
    """
    return gradient_penalty(critic, None, fake, points="fake", target=0.0, **options)


def dragan_penalty(critic: Critic, real: Tensor, **options: Any) -> Any:
    """mean_b (‖g_b‖ - 1)² around real samples: x = real + alpha * 0.5 * std(real) * u, u uniform in [0, 1).

    Kodali et al. 2017 (On Convergence and Stability of GANs), as its authors' code draws the points; alpha is one
    number a sample, u one a value. Equivalent to ``gradient_penalty(critic, real, None, points="dragan", **options)``.
    """
    return gradient_penalty(critic, real, None, points="dragan", **options)


def penalty_points(
    points: str,
    real: Tensor | None,
    fake: Tensor | None,
    alpha: Tensor | None,
    generator: torch.Generator | None,
    backend: str,
    out: Tensor | None = None,
) -> Tensor:
    """Where the critic's gradient is penalised: see ``points`` and ``out`` of ``gradient_penalty``."""
    needed = {"mixed": ("real", "fake"), "real": ("real",), "fake": ("fake",), "dragan": ("real",)}.get(points)
    if needed is None:
        raise ValueError(f"points={points!r}: expected 'mixed', 'real', 'fake' or 'dragan'")
    given = {"real": real, "fake": fake}
    for name in needed:
        tensor = given[name]
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor for points={points!r}, got {type(tensor).__name__}")
        if not tensor.is_floating_point() or tensor.dim() < 2:
            raise ValueError(
                f"{name}: expected floating-point samples of shape (B, ...) with at least 2 dimensions, "
                f"got {tuple(tensor.shape)} {tensor.dtype}"
            )
    if out is not None and points in ("real", "fake"):
        raise ValueError(f"out: expected None for points={points!r}, which are not computed but given")
    if points == "fake" or real is None:
        assert fake is not None
        return fake
    if points == "real":
        return real
    real = real.detach()
    if points == "dragan":
        noise = torch.rand(real.shape, dtype=real.dtype, device=real.device, generator=generator)
        fake = real + 0.5 * real.std() * noise
        return interpolate(fake, real, alpha, generator=generator, out=out, backend=backend)
    assert fake is not None
    return interpolate(real, fake.detach().to(real.dtype), alpha, generator=generator, out=out, backend=backend)


def first_output(scores: Any) -> Tensor:
    """The scores of a critic that may return more than them: the first entry of a tuple, list or dict."""
    while not isinstance(scores, Tensor):
        if isinstance(scores, Mapping) and scores:
            scores = next(iter(scores.values()))
        elif isinstance(scores, Sequence) and scores and not isinstance(scores, str):
            scores = scores[0]
        else:
            raise TypeError(f"critic: expected scores as a tensor (or first in a tuple or dict), got {type(scores)}")
    return scores


def input_gradient(
    critic: Critic,
    x: Tensor,
    critic_args: Sequence[Any] = (),
    critic_kwargs: Mapping[str, Any] | None = None,
    *,
    scaler: Any = None,
    exact_shortcut: bool = True,
) -> Tensor:
    """d sum(critic(x)) / dx, in the shape of x; it can be differentiated again if gradients are being recorded."""
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        with _critic_context(exact_shortcut, recording):
            scores = first_output(critic(x, *critic_args, **(critic_kwargs or {})))
        if scores.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"critic: expected one score (or map of scores) a sample, shape ({x.shape[0]}, ...), "
                f"got {tuple(scores.shape)}"
            )
        if not scores.requires_grad:
            raise ValueError(_IGNORES_INPUT)
        seed = torch.ones_like(scores)
        scale = None if scaler is None else _seed_scale(scores, scaler)
        if scale is not None:
            seed = seed * scale
        (gradients,) = torch.autograd.grad(scores, x, seed, create_graph=recording, allow_unused=True)
        if gradients is None:
            raise ValueError(_IGNORES_INPUT)
        return gradients if scale is None else gradients / scale


def _critic_context(exact_shortcut: bool, recording: bool) -> AbstractContextManager[Any]:
    """How the critic's forward pass runs, if its gradient is to be differentiated again."""
    if not recording:
        return nullcontext()
    return double_backward.exact_shortcut() if exact_shortcut else double_backward.twice_differentiable()


def _seed_scale(scores: Tensor, scaler: Any) -> Tensor:
    """The scale of the seeds, on the device and without a host sync.

    The scaler's scale is made for the mean over the batch: a mean's seeds are smaller by the number of samples.
    The bare scale, 2**16 at first, is infinite in fp16. By a power of two, which rounds nothing.
    """
    scale: Tensor = scaler.scale(torch.ones((), device=scores.device)) / (1 << (len(scores) - 1).bit_length())
    return scale.clamp(max=torch.finfo(scores.dtype).max / 2)


_IGNORES_INPUT = (
    "critic: the scores do not depend on the input, so there is no gradient to penalise; expected a critic that "
    "computes its scores from its first argument, without detach() or no_grad() in between"
)


_COMPILED = (
    "critic: what torch.compile made has no double backward; pass the critic as it was before compilation "
    "(compiled._orig_mod), or compile the whole critic step with this penalty in it"
)


def check_critic(critic: Critic) -> None:
    """Refuse compiled critics where their gradient is to be differentiated again, warn of batch statistics."""
    if torch.compiler.is_compiling():
        return
    twice = torch.is_grad_enabled()
    if not isinstance(critic, nn.Module):
        if twice and hasattr(critic, "_torchdynamo_orig_callable"):
            raise RuntimeError(_COMPILED)
        return
    for module in critic.modules():
        # By name: importing torch._dynamo to ask for the class would take a second.
        if twice and (type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None):
            raise RuntimeError(_COMPILED)
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm):
            warnings.warn(
                "critic: BatchNorm couples the samples of a batch, but the gradient penalty is defined per sample; "
                "LayerNorm, InstanceNorm or no normalisation is what WGAN-GP expects (Gulrajani et al. 2017, sec. 4)",
                stacklevel=3,
            )
