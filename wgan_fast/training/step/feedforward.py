"""The critic's gradients under a gradient penalty, written out for plain feed-forward critics.

Autograd scores real and generated samples, then the points of the penalty, and forms two weight gradients per layer,
which it adds. Written out, [real; fake; x̂] is one batch, and a layer's weight gradient is one product over it,

    [δ_real; δ_fake; δ_x̂]ᵀ [a_real; a_fake; t],

with δ the backward signals of the loss's scores and of the sum of D(x̂), a the inputs of the layer, and t the tangent:
the penalty's slope at the input gradient, carried forward through the layers (``wgan_fast.double_backward`` has the
derivation). The same numbers to rounding, in two thirds of the launches; the tangent is written where a_x̂ was.

Of a conditional critic the class y enters twice: e_y is added behind the first layer, as a bias that depends on the
sample, and the head's weight is w + p_y.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from wgan_fast.constraints import Constraint, GradientPenalty
from wgan_fast.functional import gradient_norm_penalty
from wgan_fast.onednn import product
from wgan_fast.penalties import penalty_points
from wgan_fast.reference import accumulation_dtype
from wgan_fast.training.step.losses import LossName, critic_loss

aten: Any = torch.ops.aten

Weights = dict[Any, Tensor]
"""The parameters, and the tensors that the products use for them."""

NARROW = 16
"""Up to this many columns a product is computed in its transposed form, ten times faster on the CPU for two."""


class Gradients(NamedTuple):
    """``loss`` is without the ``penalty``; ``of`` has a gradient for every parameter of the critic."""

    loss: Tensor
    wasserstein_estimate: Tensor
    penalty: Tensor
    norms: Tensor
    of: dict[Tensor, Tensor]


# ------------------------------------------------------------------------------------------ which critics it serves


def written_out(critic: nn.Module, constraint: Constraint) -> list[nn.Module] | None:
    """The layers for `critic_gradients`, if it supports this critic under this constraint; else None.

    Call it once, when a loop is built: hooks that are registered later are not called.
    """
    return plain_layers(critic) if type(constraint) is GradientPenalty and not constraint.scored else None


@runtime_checkable
class WrittenOut(Protocol):
    """A critic that is a sequence of other modules, `Shift` and `Projection` among them."""

    def plain_parts(self) -> list[nn.Module]: ...


class Shift(nn.Module):
    """A vector of the class, added to each sample's channels."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding


class Projection(nn.Module):
    """Scores <w + p_y, features> + b of flattened features: a linear head, and the vector of the class."""

    def __init__(self, head: nn.Module, embedding: nn.Embedding) -> None:
        super().__init__()
        self.head: Any = head
        self.embedding = embedding


def plain_layers(critic: nn.Module) -> list[nn.Module] | None:
    """The layers of a critic that is a sequence of linear layers, convolutions, (leaky) ReLU and flattening, or whose
    `plain_parts` are.

    None for any other: with hooks, parametrizations, shared or frozen parameters, or in a 16-bit type itself.
    """
    if any(_hooked(part) for part in critic.modules()) or _hooked_globally():
        return None
    layers: list[nn.Module] = []
    pending = [critic]
    while pending:
        module = pending.pop(0)
        if type(module) is nn.Sequential:
            pending = [*module, *pending]
        elif isinstance(module, WrittenOut):
            pending = [*module.plain_parts(), *pending]
        elif type(module) is not nn.Identity:
            layers.append(module)
    if layers and type(layers[-1]) is nn.Flatten and layers[-1].start_dim == 0:
        layers.pop()  # one score per sample, in whatever shape
    weighted = [layer for layer in layers if _is_weighted(layer)]
    parameters = list(critic.parameters())
    served = (
        all(_serves(layer) for layer in layers)
        and len(weighted) > 0
        and all(type(layer) is nn.Flatten for layer in layers[: layers.index(weighted[0])])
        and sum(len(list(layer.parameters())) for layer in weighted) == len(parameters)  # else some are shared
        and all(type(p) is nn.Parameter and p.requires_grad for p in parameters)
        and {p.dtype for p in parameters} <= {torch.float32, torch.float64}
    )
    return layers if served else None


def _serves(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if type(layer) is nn.LeakyReLU:
        return layer.negative_slope > 0  # else the output's sign is not the input's
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if type(layer) is Projection:
        head = layer.head
        return type(head) is nn.Linear or (type(head) is nn.Conv2d and head.groups == 1 and not any(head.padding))
    return type(layer) in (nn.Linear, nn.ReLU, Shift)


def _is_weighted(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, nn.Conv2d, Shift, Projection))


def _hooked_globally() -> bool:  # torch 2.7 and older have no function for it
    return bool(
        _global_forward_hooks or _global_forward_pre_hooks or _global_backward_hooks or _global_backward_pre_hooks
    )


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
    )


# ------------------------------------------------------------------------------------------------- what it computes


@torch.no_grad()
def critic_gradients(
    layers: Sequence[nn.Module],
    real: Tensor,
    fake: Tensor,
    constraint: GradientPenalty,
    loss_name: LossName = "wgan",
    dtype: torch.dtype | None = None,
    alpha: Tensor | None = None,
    labels: Tensor | None = None,
) -> Gradients:
    """Loss, penalty and the gradient of their sum.

    Args:
        layers: from `written_out`.
        real, fake: ``(B, *sample_shape)``.
        constraint: the penalty.
        loss_name: what the critic minimises.
        dtype: of the products, as under autocast; by default that of the samples.
        alpha: ``(B,)``, positions of random points; by default drawn as `gradient_penalty` draws them.
        labels: ``(B,)``, the classes of both, for a conditional critic.
    """
    classes = labels if labels is None else labels.repeat(3)
    batch, mixed = len(real), slice(2 * len(real), None)
    dtype = dtype or real.dtype
    weights: Weights = {p: p.to(dtype) for layer in layers for p in layer.parameters()}
    weighted = [i for i, layer in enumerate(layers) if _is_weighted(layer)]
    first, last = weighted[0], weighted[-1]

    values = [_stacked(real, fake, constraint, alpha).to(dtype)]  # values[i] goes into layer i, values[i + 1] comes out
    for layer in layers:
        values.append(_forward(layer, values[-1], weights, classes))
    loss, estimate, signal = _loss(values[-1], batch, loss_name)

    signals: dict[int, Tensor] = {}
    for i in reversed(range(first, len(layers))):
        signals[i] = signal
        rows = mixed if i == first else slice(None)  # the gradient at real and generated samples is not needed
        at = None if classes is None else classes[rows]
        signal = _backward(layers[i], signal[rows], values[i][rows], values[i + 1][rows], weights, at)
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
        if i in weighted:
            if not isinstance(layers[i], Shift):  # the activation after it still has to read this memory
                place = values[i][mixed]
                if tangent.data_ptr() != place.data_ptr():
                    place.copy_(tangent)
                tangent = place
            gradients |= _weight_gradients(layers[i], signals.pop(i), values[i], batch, weights, classes)
        if i < last:
            tangent = _tangent(layers[i], tangent, values[i + 1][mixed], weights)
    return Gradients(loss, estimate, penalty.detach(), norms, gradients)


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


def _forward(layer: Any, x: Tensor, weights: Weights, classes: Tensor | None) -> Tensor:
    """Activations overwrite their input, which is not needed: their backward is a function of the output."""
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        return _affine(layer, x, weights[layer.weight], weights.get(layer.bias))
    if isinstance(layer, nn.ReLU):
        return x.relu_()
    if isinstance(layer, nn.LeakyReLU):
        return F.leaky_relu_(x, layer.negative_slope)
    if isinstance(layer, Shift):
        assert classes is not None
        vectors = weights[layer.embedding.weight][classes]
        return x.add_(vectors.reshape(*vectors.shape, *[1] * (x.dim() - 2)))
    if isinstance(layer, Projection):
        scores = (x * _head_of_class(layer, weights, classes)).sum(1)
        return scores if layer.head.bias is None else scores + weights[layer.head.bias]
    return x.flatten(1)


def _head_of_class(layer: Projection, weights: Weights, classes: Tensor | None) -> Tensor:
    """``(B, features)``: w + p_y."""
    assert classes is not None
    return weights[layer.embedding.weight][classes] + weights[layer.head.weight].reshape(1, -1)


def _backward(layer: Any, signal: Tensor, x: Tensor, y: Tensor, weights: Weights, classes: Tensor | None) -> Tensor:
    """The gradient with respect to x; an activation's overwrites the signal."""
    if isinstance(layer, nn.Linear):
        return product(signal, weights[layer.weight].t())
    if isinstance(layer, nn.Conv2d):
        gradients = _convolution_backward(layer, signal, x, weights[layer.weight], [True, False, False])
        return gradients[0]  # type: ignore[no-any-return]
    if isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
        return _times_slope(layer, signal, y, signal)
    if isinstance(layer, Projection):
        return signal.reshape(-1, 1) * _head_of_class(layer, weights, classes)
    return signal.reshape(x.shape)


def _tangent(layer: Any, tangent: Tensor, y: Tensor, weights: Weights) -> Tensor:
    """The tangent after a layer; after an activation it overwrites y, whose last use this is."""
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        return _affine(layer, tangent, weights[layer.weight], None)
    if isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
        return _times_slope(layer, tangent, y, y)
    return tangent if isinstance(layer, Shift) else tangent.flatten(1)


def _weight_gradients(
    layer: Any, signal: Tensor, x: Tensor, batch: int, weights: Weights, classes: Tensor | None
) -> dict[Tensor, Tensor]:
    if isinstance(layer, Shift):
        assert classes is not None
        judged = signal[: 2 * batch].flatten(2).sum(2) if signal.dim() > 2 else signal[: 2 * batch]
        return {layer.embedding.weight: _by_class(layer.embedding, judged, classes[: 2 * batch])}
    if isinstance(layer, Projection):
        assert classes is not None
        rows = signal.reshape(-1, 1) * x
        found = {
            layer.head.weight: rows.sum(0).reshape(layer.head.weight.shape).to(layer.head.weight.dtype),
            layer.embedding.weight: _by_class(layer.embedding, rows, classes),
        }
        if layer.head.bias is not None:
            found[layer.head.bias] = signal[: 2 * batch].sum(dtype=layer.head.bias.dtype).reshape(1)
        return found
    if isinstance(layer, nn.Conv2d):
        gradients = _convolution_backward(layer, signal, x, weights[layer.weight], [False, True, False])
        weight, bias_dims = gradients[1], [0, 2, 3]
    else:
        rows, columns = signal.flatten(0, -2), x.flatten(0, -2)
        narrow = columns.shape[1] <= NARROW and x.device.type == "cpu"
        weight = columns.t().mm(rows).t() if narrow else product(rows.t(), columns.t())
        bias_dims = list(range(signal.dim() - 1))
    if weight.dtype != layer.weight.dtype or weight.stride() != layer.weight.stride():
        weight = torch.empty_like(layer.weight).copy_(weight)  # the step's kernels walk over both together
    found = {layer.weight: weight}
    if layer.bias is not None:
        found[layer.bias] = signal[: 2 * batch].sum(bias_dims, dtype=layer.bias.dtype)
    return found


def _by_class(embedding: nn.Embedding, rows: Tensor, classes: Tensor) -> Tensor:
    table = torch.zeros_like(embedding.weight)
    return table.index_add_(0, classes, rows.to(table.dtype))


def _times_slope(layer: Any, values: Tensor, y: Tensor, out: Tensor) -> Tensor:
    result: Tensor
    if isinstance(layer, nn.ReLU):
        result = aten.threshold_backward.grad_input(values, y, 0, grad_input=out)
    else:
        result = aten.leaky_relu_backward.grad_input(values, y, layer.negative_slope, True, grad_input=out)
    return result


def _affine(layer: nn.Linear | nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return product(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _convolution_backward(layer: nn.Conv2d, signal: Tensor, x: Tensor, weight: Tensor, mask: list[bool]) -> Any:
    sizes = (list(layer.stride), list(layer.padding), list(layer.dilation))
    return aten.convolution_backward(signal, x, weight, None, *sizes, False, [0, 0], layer.groups, mask)
