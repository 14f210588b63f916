"""The critic's gradients under a gradient penalty, written out for plain feed-forward critics.

Autograd scores real and generated samples, then the points of the penalty, and forms two weight gradients per layer,
which it adds. Written out, [real; fake; x̂] is one batch, and a layer's weight gradient is one product over it,

    [δ_real; δ_fake; δ_x̂]ᵀ [a_real; a_fake; t],

with δ the backward signals of the loss's scores and of the sum of D(x̂), a the inputs of the layer, and t the tangent:
the penalty's slope at the input gradient, carried forward through the layers (``wgan_fast.double_backward`` has the
derivation). The same numbers to rounding, in two thirds of the launches; the tangent is written where a_x̂ was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from wgan_fast.constraints import Constraint, GradientPenalty
from wgan_fast.functional import gradient_norm_penalty
from wgan_fast.penalties import penalty_points
from wgan_fast.reference import accumulation_dtype
from wgan_fast.training.step.layers import KINDS, Flatten, Layer, Step
from wgan_fast.training.step.losses import CriticStep, LossName, critic_loss

# ------------------------------------------------------------------------------------------ which critics it serves


@runtime_checkable
class WrittenOut(Protocol):
    """A critic that is a sequence of modules and of layers that are not modules: see `layers.Shift`."""

    def plain_parts(self) -> list[nn.Module | Layer]: ...


def written_out(critic: nn.Module, constraint: Constraint) -> list[Layer] | None:
    """The layers for `critic_gradients`, if it supports this critic under this constraint; else None.

    Call it once, when a loop is built: hooks that are registered later are not called.
    """
    return plain_layers(critic) if type(constraint) is GradientPenalty and not constraint.scored else None


def plain_layers(critic: nn.Module) -> list[Layer] | None:
    """The layers of a critic that is a sequence of linear layers, convolutions, (leaky) ReLU and flattening, or whose
    `plain_parts` are.

    None for any other: with hooks, parametrizations, shared or frozen parameters, or in a 16-bit type itself.
    """
    if _hooked(critic):
        return None
    layers: list[Layer] = []
    pending: list[nn.Module | Layer] = [critic]
    while pending:
        part = pending.pop(0)
        if isinstance(part, Layer):
            layers.append(part)
        elif type(part) is nn.Sequential:
            pending = [*part, *pending]
        elif isinstance(part, WrittenOut):
            pending = [*part.plain_parts(), *pending]
        elif type(part) in KINDS:
            layers.append(KINDS[type(part)](part))
        elif type(part) is not nn.Identity:
            return None
    if layers and isinstance(layers[-1], Flatten) and layers[-1].module.start_dim == 0:
        layers.pop()  # one score per sample, in whatever shape
    weighted = [i for i, layer in enumerate(layers) if layer.parameters()]
    parameters = list(critic.parameters())
    served = (
        all(layer.served() for layer in layers)
        and len(weighted) > 0
        and all(isinstance(layer, Flatten) for layer in layers[: weighted[0]])
        and sum(len(layer.parameters()) for layer in layers) == len(parameters)  # else some are shared
        and all(type(p) is nn.Parameter and p.requires_grad for p in parameters)
        and {p.dtype for p in parameters} <= {torch.float32, torch.float64}
    )
    return layers if served else None


def _hooked(critic: nn.Module) -> bool:
    """Whether calling the critic does more, or something else, than its modules' classes say."""
    kinds = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    everywhere = [getattr(nn.modules.module, f"_global_{kind}") for kind in kinds]
    own = [getattr(module, f"_{kind}") for module in critic.modules() for kind in kinds]
    replaced = ("forward" in m.__dict__ or m._compiled_call_impl is not None for m in critic.modules())
    return any(everywhere) or any(own) or any(replaced)


# ------------------------------------------------------------------------------------------------- what it computes


@torch.no_grad()
def critic_gradients(
    layers: Sequence[Layer],
    real: Tensor,
    fake: Tensor,
    constraint: GradientPenalty,
    loss_name: LossName = "wgan",
    dtype: torch.dtype | None = None,
    alpha: Tensor | None = None,
    labels: Tensor | None = None,
) -> tuple[CriticStep, dict[Tensor, Tensor]]:
    """The figures of the step, and for every parameter of the critic the gradient of loss and penalty.

    Args:
        layers: from `written_out`.
        real, fake: ``(B, *sample_shape)``.
        constraint: the penalty.
        loss_name: what the critic minimises.
        dtype: of the products, as under autocast; by default that of the samples.
        alpha: ``(B,)``, positions of random points; by default drawn as `gradient_penalty` draws them.
        labels: ``(B,)``, the classes of both, for a conditional critic.
    """
    classes = None if labels is None else labels.repeat(3)
    mixed = slice(2 * len(real), None)
    weights = {p: p.to(dtype or real.dtype) for layer in layers for p in layer.parameters()}
    step = Step(weights, classes, judged=slice(2 * len(real)))
    weighted = [i for i, layer in enumerate(layers) if layer.parameters()]
    first, last = weighted[0], weighted[-1]

    values = [_stacked(real, fake, constraint, alpha).to(dtype or real.dtype)]
    for layer in layers:
        values.append(layer.forward(values[-1], step))  # values[i] goes into layer i, values[i + 1] comes out
    loss, estimate, signal = _loss(values[-1], len(real), loss_name)

    signals: dict[int, Tensor] = {}
    for i in reversed(range(first, len(layers))):
        signals[i] = signal
        rows = mixed if i == first else slice(None)  # the gradient at real and generated samples is not needed
        at = step if classes is None else step._replace(classes=classes[rows])
        signal = layers[i].backward(signal[rows], values[i][rows], values[i + 1][rows], at)
    gradient = signal.reshape(real.shape).to(real.dtype).requires_grad_()
    with torch.enable_grad():
        penalty, norms = gradient_norm_penalty(
            gradient,
            target=constraint.target,
            one_sided=constraint.one_sided,
            weight=constraint.weight,
            return_norms=True,
        )
        (tangent,) = torch.autograd.grad(penalty, gradient)

    gradients: dict[Tensor, Tensor] = {}
    tangent = tangent.reshape(values[first][mixed].shape)
    for i in range(first, last + 1):
        if layers[i].multiplies_input:
            place = values[i][mixed]
            if tangent.data_ptr() != place.data_ptr():
                place.copy_(tangent)
            tangent = place
        gradients |= layers[i].weight_gradients(signals.pop(i), values[i], step)
        if i < last:
            tangent = layers[i].tangent(tangent, values[i + 1][mixed], step)
    penalty = penalty.detach()
    return CriticStep(loss + penalty, estimate, penalty, norms.mean()), gradients


def _stacked(real: Tensor, fake: Tensor, constraint: GradientPenalty, alpha: Tensor | None) -> Tensor:
    """[real; fake; points of the penalty], the last written in place."""
    images_last = real.dim() == 4 and real.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if images_last else torch.contiguous_format
    stacked = torch.empty((3 * len(real), *real.shape[1:]), dtype=real.dtype, device=real.device, memory_format=layout)
    stacked[: len(real)] = real
    stacked[len(real) : 2 * len(real)] = fake
    penalty_points(constraint.points, real, fake, alpha, None, "auto", stacked[2 * len(real) :])
    return stacked


def _loss(scores: Tensor, batch: int, loss_name: LossName) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, estimate, and the backward signal of the loss and of the sum of the scores at the points."""
    judged = scores[: 2 * batch].to(accumulation_dtype(scores.dtype)).requires_grad_()
    with torch.enable_grad():
        loss = critic_loss(loss_name, judged[:batch], judged[batch:])
        (slope,) = torch.autograd.grad(loss, judged)
    signal = torch.ones_like(scores)
    signal[: 2 * batch] = slope
    return loss.detach(), judged[:batch].detach().mean() - judged[batch:].detach().mean(), signal
