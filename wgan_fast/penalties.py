"""Gradient penalties: points, the critic's scores there, the input gradient, the penalty on its norm.

    x    = points between real and fake (or one of them)
    g_b  = the gradient of critic(x)_b with respect to x_b
    P    = weight * mean_b (‖g_b‖₂ - target)²

``gradient_penalty`` is the general form; the named wrappers have the papers' settings. All return the
penalty *unweighted* unless ``weight`` is given: half of the field multiplies by lambda_gp outside, half inside.

Usage notes:

- Mixed precision: call it under ``torch.autocast``, and pass the ``GradScaler`` as ``scaler``. The penalty's own
  arithmetic is fp32 (fp64 for fp64).
- torch.compile: a compiled critic has no double backward, and is refused. Compile the whole critic step. From torch
  2.13 on (2.11 refuses ``requires_grad_()``), the gradient of the loss can be inside; the inner gradient needs
  ``trace_autograd_ops``::

      torch._dynamo.config.trace_autograd_ops = True

      @torch.compile(fullgraph=True)
      def critic_step(real, fake):
          penalty = gradient_penalty(critic, real, fake, weight=10.0)
          loss = critic(fake).mean() - critic(real).mean() + penalty
          return torch.autograd.grad(loss, list(critic.parameters()))

  From torch 2.6 on no option is needed with the inner gradient by ``torch.func`` and that of the loss outside::

      @torch.compile(fullgraph=True)
      def critic_loss(real, fake):
          x = interpolate(real, fake)
          gradients = torch.func.grad(lambda x: critic(x).sum())(x)
          return critic(fake).mean() - critic(real).mean() + gradient_norm_penalty(gradients, weight=10.0)

      critic_loss(real, fake).backward()

- DistributedDataParallel: pass the wrapped critic, made with ``broadcast_buffers=False`` (otherwise two forward
  passes before a backward fail: pytorch/pytorch#175024). Each rank penalises its own samples; the average of the
  gradients over ranks is that of the joined batch.
- Recurrent layers and attention: the critic's forward pass avoids cuDNN's and the fused kernels, which have no
  double backward, and warns once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from wgan_fast.critic_gradients import Critic, first_output, input_gradient, scored_with_gradient
from wgan_fast.critic_modules import check_critic
from wgan_fast.first_order import Method, first_order_penalty, refuse_difference
from wgan_fast.functional.gradient_norm_penalty import Norm, NormPenaltyOptions, Reduction, gradient_norm_penalty
from wgan_fast.penalty_points import Points, penalty_points

if TYPE_CHECKING:
    from typing_extensions import Required, Unpack

__all__ = [
    "Critic",
    "Method",
    "Outputs",
    "PenaltyOptions",
    "Points",
    "check_critic",
    "dragan_penalty",
    "first_output",
    "gradient_penalty",
    "input_gradient",
    "lipschitz_penalty",
    "penalty_points",
    "r1_penalty",
    "r2_penalty",
]


Outputs: TypeAlias = Callable[[Any], Tensor]
"""From what a critic returns to its scores."""


class PenaltyOptions(NormPenaltyOptions, total=False):
    """The options of ``gradient_penalty`` that do not change what is returned."""

    points: Points
    alpha: Tensor | None
    critic_args: Sequence[Any]
    critic_kwargs: Mapping[str, Any] | None
    generator: torch.Generator | None
    out: Tensor | None
    outputs: Outputs | None
    scaler: Any
    exact_shortcut: bool
    method: Method


if TYPE_CHECKING:  # The options together with what is asked for, which decides the type of the result.

    class _Alone(PenaltyOptions, total=False):
        return_norms: Literal[False]
        return_scores: Literal[False]

    class _WithNorms(PenaltyOptions, total=False):
        return_norms: Required[Literal[True]]
        return_scores: Literal[False]

    class _WithScores(PenaltyOptions, total=False):
        return_norms: Literal[False]
        return_scores: Required[Literal[True]]

    class _WithBoth(PenaltyOptions, total=False):
        return_norms: Required[Literal[True]]
        return_scores: Required[Literal[True]]

    _Two = tuple[Tensor, Tensor]
    _Three = tuple[Tensor, Tensor, Tensor]


@overload
def gradient_penalty(critic: Critic, real: Tensor | None, fake: Tensor | None, **options: Unpack[_Alone]) -> Tensor: ...
@overload
def gradient_penalty(
    critic: Critic, real: Tensor | None, fake: Tensor | None, **options: Unpack[_WithNorms]
) -> _Two: ...
@overload
def gradient_penalty(
    critic: Critic, real: Tensor | None, fake: Tensor | None, **options: Unpack[_WithScores]
) -> _Two: ...
@overload
def gradient_penalty(
    critic: Critic, real: Tensor | None, fake: Tensor | None, **options: Unpack[_WithBoth]
) -> _Three: ...
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
    outputs: Outputs | None = None,
    scaler: Any = None,
    return_norms: bool = False,
    return_scores: bool = False,
    exact_shortcut: bool = True,
    method: Method = "exact",
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
            with the scores first.
        real, fake: (B, ...), rank >= 2, of one shape; the one that ``points`` does not use may be None. A fake of
            another floating dtype (from autocast) is converted to real's.
        weight: lambda_gp; 10 in the paper.
        target: the norm to hold: 1, or 0 for R1 and R2.
        one_sided: penalise only norms above the target (WGAN-LP).
        points: "mixed" between real and fake (WGAN-GP), "real" (R1 with target=0), "fake" (R2), or "dragan"
            (around real).
        alpha: the position of the mixed points, (B,) or (B, 1, ..., 1); drawn uniformly when absent.
        norm, reduction, return_norms, backend: see ``gradient_norm_penalty``.
        return_scores: also return the critic's scores at the points, differentiable. A loss that contains both costs
            four units of matrix work per layer instead of six where the critic allows it: see ``score_and_gradient``.
        critic_args, critic_kwargs: passed on after x (labels, conditions).
        generator: draws random points; the device's default generator when absent.
        out: written with the random points ("mixed", "dragan") instead of a new tensor; the shape, dtype and device
            of real. It may be a slice of a larger buffer, such as the last third of a batch [real; fake; x].
        outputs: for critics of several outputs: a function from what the critic returns to the scores that are
            differentiated, one number per sample, such as a weighted sum.
        scaler: a ``torch.amp.GradScaler``: scores are scaled before the input gradient is taken and the
            gradient unscaled after it, so that fp16 does not underflow in between. The penalty itself is returned
            unscaled: scale the whole loss as usual.
        exact_shortcut: skip the arithmetic on exact zeros in the double backward of piecewise-linear
            activations; the numbers are the same to rounding. See ``wgan_fast.double_backward.exact_shortcut``.
        method: "exact" differentiates twice. The others need no double backward, for compiled or sharded critics and
            fused kernels: "forward" is forward-mode differentiation, exact as well; "difference" is a central
            difference, within 1e-4 of the exact gradient in fp32 for smooth critics (SiLU, GELU, tanh), 1e-2 for ELU
            and CELU, and refused for critics with kinks. The value is always exact. See ``wgan_fast.first_order``.

    Returns:
        The penalty, 0-dimensional, fp32 (fp64 for fp64); with ``return_norms`` (penalty, norms), with
        ``return_scores`` (penalty, scores), with both (penalty, norms, scores).

    Raises:
        TypeError, ValueError: an argument is not as above, or the scores do not depend on the input.
        RuntimeError: under ``torch.inference_mode()``; the critic is a compiled module, which has no double backward;
            under no_grad it may be.
    """
    with nullcontext() if method == "exact" else torch.no_grad():
        check_critic(critic, critic_args)
    if method == "difference":
        refuse_difference(critic)
    x = penalty_points(points, real, fake, alpha, generator, backend, out)
    scored = critic if outputs is None else _composed(critic, outputs)
    passed = (critic_args, critic_kwargs or {})

    def penalty_of(gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradient_norm_penalty(
            gradients,
            target=target,
            one_sided=one_sided,
            norm=norm,
            reduction=reduction,
            weight=weight,
            return_norms=True,
            backend=backend,
        )

    scores = None
    if method != "exact":
        if return_scores:
            raise ValueError(f"return_scores=True: method={method!r} has no scores to share, expected method='exact'")
        penalty, norms = first_order_penalty(scored, x.detach(), *passed, method, penalty_of, scaler)
    elif return_scores:
        scores, gradients = scored_with_gradient(
            scored, x.detach(), *passed, scaler=scaler, exact_shortcut=exact_shortcut
        )
        penalty, norms = penalty_of(gradients)
    else:
        penalty, norms = penalty_of(input_gradient(scored, x, *passed, scaler=scaler, exact_shortcut=exact_shortcut))
    results = (penalty, *([norms] if return_norms else []), *([] if scores is None else [scores]))
    return results if len(results) > 1 else penalty


def _composed(critic: Critic, outputs: Outputs) -> Critic:
    return lambda *args, **kwargs: outputs(critic(*args, **kwargs))


@overload
def lipschitz_penalty(critic: Critic, real: Tensor, fake: Tensor, **options: Unpack[_Alone]) -> Tensor: ...
@overload
def lipschitz_penalty(critic: Critic, real: Tensor, fake: Tensor, **options: Unpack[_WithNorms]) -> _Two: ...
@overload
def lipschitz_penalty(critic: Critic, real: Tensor, fake: Tensor, **options: Unpack[_WithScores]) -> _Two: ...
@overload
def lipschitz_penalty(critic: Critic, real: Tensor, fake: Tensor, **options: Unpack[_WithBoth]) -> _Three: ...
def lipschitz_penalty(critic: Critic, real: Tensor, fake: Tensor, **options: Any) -> Any:
    """The one-sided penalty of WGAN-LP: mean_b max(0, ‖g_b‖ - 1)² at mixed points.

    Petzka, Fischer & Lukovnicov 2018 (On the Regularization of Wasserstein GANs), equation 8. Equivalent to
    ``gradient_penalty(critic, real, fake, one_sided=True, **options)``.
    """
    return gradient_penalty(critic, real, fake, one_sided=True, **options)


@overload
def r1_penalty(critic: Critic, real: Tensor, **options: Unpack[_Alone]) -> Tensor: ...
@overload
def r1_penalty(critic: Critic, real: Tensor, **options: Unpack[_WithNorms]) -> _Two: ...
@overload
def r1_penalty(critic: Critic, real: Tensor, **options: Unpack[_WithScores]) -> _Two: ...
@overload
def r1_penalty(critic: Critic, real: Tensor, **options: Unpack[_WithBoth]) -> _Three: ...
def r1_penalty(critic: Critic, real: Tensor, **options: Any) -> Any:
    """mean_b ‖g_b‖² at real samples. Mescheder et al. 2018, equation 9, is gamma / 2 times this: weight=gamma / 2.

    Equivalent to ``gradient_penalty(critic, real, None, points="real", target=0.0, **options)``.
    """
    return gradient_penalty(critic, real, None, points="real", target=0.0, **options)


@overload
def r2_penalty(critic: Critic, fake: Tensor, **options: Unpack[_Alone]) -> Tensor: ...
@overload
def r2_penalty(critic: Critic, fake: Tensor, **options: Unpack[_WithNorms]) -> _Two: ...
@overload
def r2_penalty(critic: Critic, fake: Tensor, **options: Unpack[_WithScores]) -> _Two: ...
@overload
def r2_penalty(critic: Critic, fake: Tensor, **options: Unpack[_WithBoth]) -> _Three: ...
def r2_penalty(critic: Critic, fake: Tensor, **options: Any) -> Any:
    """mean_b ‖g_b‖² at generated samples. Mescheder et al. 2018, equation 10, is gamma / 2 times this.

    Equivalent to ``gradient_penalty(critic, None, fake, points="fake", target=0.0, **options)``.
    """
    return gradient_penalty(critic, None, fake, points="fake", target=0.0, **options)


@overload
def dragan_penalty(critic: Critic, real: Tensor, **options: Unpack[_Alone]) -> Tensor: ...
@overload
def dragan_penalty(critic: Critic, real: Tensor, **options: Unpack[_WithNorms]) -> _Two: ...
@overload
def dragan_penalty(critic: Critic, real: Tensor, **options: Unpack[_WithScores]) -> _Two: ...
@overload
def dragan_penalty(critic: Critic, real: Tensor, **options: Unpack[_WithBoth]) -> _Three: ...
def dragan_penalty(critic: Critic, real: Tensor, **options: Any) -> Any:
    """mean_b (‖g_b‖ - 1)² around real samples: x = real + alpha * 0.5 * std(real) * u, u uniform in [0, 1).

    Kodali et al. 2017 (On Convergence and Stability of GANs), as its authors' code draws the points; alpha is one
    number per sample, u one per value. Equivalent to
    ``gradient_penalty(critic, real, None, points="dragan", **options)``.
    """
    return gradient_penalty(critic, real, None, points="dragan", **options)
