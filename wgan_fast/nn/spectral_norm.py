"""Spectral normalisation of all layers of a critic at once, before each of its forward passes.

One power iteration of a weight W with its singular vectors u, v (Miyato et al. 2018, algorithm 1):

    u <- W v / ‖W v‖,   s = Wᵀ u,   v <- s / ‖s‖,   σ = uᵀ W v = ‖s‖,   the layer uses W / σ

torch.nn.utils.parametrizations.spectral_norm multiplies by W a third time for σ. With u and v held constant and G the
gradient with respect to W / σ,

    dL/dW = (G - ⟨G, W⟩ / σ · u vᵀ) / σ

which one autograd Function computes for all layers. Vectors and quotients go through the foreach functions, all
layers in one launch; products with W take one launch per shape of layer on CUDA, where the layers are stacked. On the
CPU a launch costs less than the copy into the stack, so each layer is computed separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from wgan_fast.nn.linear_maps import LinearMap, MatrixMap, convolution_map, inner_products
from wgan_fast.nn.matrices import MatrixLayer, as_matrix, from_matrix, matrix_layers, outputs_dim

Convolution = Literal["matrix", "operator"]
INITIAL_ITERATIONS = 15


def spectral_norm(
    critic: nn.Module,
    *,
    convolution: Convolution = "matrix",
    example: Tensor | None = None,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
) -> nn.Module:
    """Divide every weight of ``critic`` by its largest singular value, in place; returns ``critic``.

    Equivalent to, with an interchangeable ``state_dict``::

        for layer in critic.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, ...)):
                torch.nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=n_power_iterations, eps=eps)

    with one difference: the power iteration takes its step once in each forward pass of ``critic`` in training mode,
    not at each access of a weight. In evaluation mode, and where a layer is called on its own, u and v stay as they
    are. The buffers change in place and nothing synchronises, so a CUDA graph can capture it.

    The ``matrix`` form divides a convolution by the largest singular value of its kernel, reshaped to a matrix of one
    row per output channel (Miyato et al. 2018, section 2.1), which is not that of the convolution: for a k x k kernel
    of stride 1 the convolution's may be k times as large (Tsuzuku et al. 2018, theorem 1). The ``operator`` form
    iterates with the convolution and its transpose themselves (Gouk et al. 2021, Regularisation of Neural Networks by
    Enforcing Lipschitz Continuity, section 3.3) and divides by the true value, for two convolutions of one sample per
    iteration.

    Args:
        critic: a module whose linear and (transposed) convolution layers are all normalised. Other parameters stay
            free, embeddings such as the class vectors of a projection critic among them.
        convolution: ``matrix`` or ``operator``.
        example: ``(1, *sample_shape)``, from which ``operator`` learns each layer's input size: the critic is called
            with it once, in evaluation mode.
        n_power_iterations: per forward pass.
        eps: lower bound of the norms divided by.

    Raises:
        ValueError: no layer to normalise, one that is parametrized already, one whose padding the operator form does
            not know, or no ``example`` for that form.
    """
    if convolution not in ("matrix", "operator"):
        raise ValueError(f"convolution={convolution!r}: expected 'matrix' or 'operator'")
    if n_power_iterations < 1:
        raise ValueError(f"n_power_iterations: expected at least 1, got {n_power_iterations}")
    layers = dict(matrix_layers(critic))
    if not layers:
        raise ValueError("critic: expected linear or convolution layers to normalise, found none")
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"{name}: its weight is parametrized already")
    sizes: dict[nn.Module, torch.Size] = {}
    if convolution == "operator":
        if example is None:
            raise ValueError("example: expected a tensor (1, *sample_shape) for convolution='operator', got None")
        sizes = _convolution_inputs(critic, layers.values(), example)
    made = [_normalised_weight(name, layer, sizes.get(layer), eps) for name, layer in layers.items()]
    for layer, normalised in zip(layers.values(), made, strict=True):
        parametrize.register_parametrization(layer, "weight", normalised)
    hook = PowerIteration(list(layers.values()), n_power_iterations)
    critic.register_forward_pre_hook(hook.before, prepend=True)
    critic.register_forward_hook(hook.after, always_call=True)
    return critic


class NormalisedWeight(nn.Module):
    """A layer's parametrization weight / σ, with the buffers ``_u`` and ``_v`` that torch's spectral norm has, too."""

    _u: Tensor
    _v: Tensor

    def __init__(self, linear_map: LinearMap, outputs: int, u: Tensor, v: Tensor, eps: float) -> None:
        super().__init__()
        self.linear_map = linear_map
        self.outputs = outputs
        self.eps = eps
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)
        self.ready: list[Tensor] = []
        """The weight during the critic's forward pass, else None."""

    def forward(self, weight: Tensor) -> Tensor:
        return self.ready[0] if self.ready else _normalise([self], [weight], 0)[0]

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def mapped(self, weight: Tensor) -> Tensor:
        """``weight`` in the shape that the linear map takes."""
        return as_matrix(weight, self.outputs) if isinstance(self.linear_map, MatrixMap) else weight

    def unmapped(self, mapped: Tensor, shape: torch.Size) -> Tensor:
        return from_matrix(mapped, shape, self.outputs) if isinstance(self.linear_map, MatrixMap) else mapped


class PowerIteration:
    """The critic's hooks: one step of all layers and their weights before a forward pass; the weights go after it."""

    def __init__(self, layers: Sequence[MatrixLayer], iterations: int) -> None:
        self.chains: list[Any] = [layer.parametrizations.weight for layer in layers]  # type: ignore[union-attr]
        self.parts: list[NormalisedWeight] = [chain[0] for chain in self.chains]
        self.iterations = iterations

    def before(self, critic: nn.Module, args: Any) -> None:
        originals = [chain.original for chain in self.chains]
        weights = _normalise(self.parts, originals, self.iterations if critic.training else 0)
        for part, weight in zip(self.parts, weights, strict=True):
            part.ready[:] = [weight]

    def after(self, critic: nn.Module, args: Any, output: Any) -> None:
        for part in self.parts:
            part.ready.clear()


def _normalise(parts: Sequence[NormalisedWeight], weights: Sequence[Tensor], iterations: int) -> list[Tensor]:
    """All weights divided by their σ, after the given number of power iterations."""
    mapped = [part.mapped(weight) for part, weight in zip(parts, weights, strict=True)]
    normalised = _divide(parts, iterations, *mapped)
    return [part.unmapped(w, weight.shape) for part, w, weight in zip(parts, normalised, weights, strict=True)]


class _Layers:
    """The layers of one forward pass, in groups that go in one launch."""

    def __init__(self, parts: Sequence[NormalisedWeight], weights: Sequence[Tensor]) -> None:
        self.groups = [(parts[group[0]].linear_map, group) for group in _groups(parts, weights)]

    def each(self, function: str, *lists: Sequence[Tensor]) -> list[Tensor]:
        """A function of the linear maps, for all layers."""
        results = [*lists[0]]
        for linear_map, group in self.groups:
            found = getattr(linear_map, function)(*([values[i] for i in group] for values in lists))
            for i, result in zip(group, found, strict=True):
                results[i] = result
        return results

    def inner_products(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
        results = [*a]
        for _, group in self.groups:
            found = inner_products([a[i] for i in group], [b[i] for i in group])
            for i, result in zip(group, found, strict=True):
                results[i] = result
        return results


def _groups(parts: Sequence[NormalisedWeight], weights: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the layers that share a launch: on CUDA those of one shape, elsewhere each by itself."""
    groups: dict[Any, list[int]] = {}
    for i, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        alike = (part.linear_map, weight.shape, weight.dtype, weight.device, part._v.shape)
        groups.setdefault(alike if weight.is_cuda else i, []).append(i)
    return list(groups.values())


def _power_iteration(
    layers: _Layers, parts: Sequence[NormalisedWeight], weights: Sequence[Tensor], iterations: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """u, v and σ of every weight; the buffers of the parts change in place."""
    eps = parts[0].eps
    buffers = [part._u for part in parts], [part._v for part in parts]
    if iterations == 0:
        u, v = ([buffer.clone() for buffer in each] for each in buffers)  # they may change before the backward pass
        return u, v, layers.inner_products(u, layers.each("forward", weights, v))
    v = buffers[1]
    for _ in range(iterations):
        u, _ = _units(layers.each("forward", weights, v), eps)
        v, sigma = _units(layers.each("transposed", weights, u, v), eps)
    torch._foreach_copy_(buffers[0], u)
    torch._foreach_copy_(buffers[1], v)
    return u, v, sigma


def _units(xs: list[Tensor], eps: float) -> tuple[list[Tensor], list[Tensor]]:
    """x / max(‖x‖, eps), and ‖x‖."""
    norms = list(torch._foreach_norm(xs))
    return list(torch._foreach_div(xs, list(torch._foreach_clamp_min(norms, eps)))), norms


class _Divide(torch.autograd.Function):
    """W / σ, σ = ⟨u, W v⟩ with u and v constant, for all layers."""

    @staticmethod
    def forward(ctx: Any, parts: Sequence[NormalisedWeight], iterations: int, *weights: Tensor) -> tuple[Tensor, ...]:
        layers = _Layers(parts, weights)
        with torch.autocast(weights[0].device.type, enabled=False):
            u, v, sigma = _power_iteration(layers, parts, weights, iterations)
            normalised = torch._foreach_div(weights, sigma)
        ctx.layers = layers
        ctx.save_for_backward(*weights, *u, *v, *sigma)
        return tuple(normalised)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        layers, saved, n = ctx.layers, ctx.saved_tensors, len(gradients)
        weights, u, v, sigma = (saved[i : i + n] for i in range(0, 4 * n, n))
        twice = torch.is_grad_enabled()
        if twice:
            sigma = layers.inner_products(u, layers.each("forward", weights, v))
        shares = torch._foreach_div(layers.inner_products(gradients, weights), sigma)
        totals = layers.each("subtract_outer", gradients, weights, torch._foreach_mul(u, shares), v)
        if twice:
            return None, None, *torch._foreach_div(totals, sigma)
        torch._foreach_div_(totals, sigma)
        return None, None, *totals


_divide: Callable[..., tuple[Tensor, ...]] = _Divide.apply


def _normalised_weight(name: str, layer: MatrixLayer, size: torch.Size | None, eps: float) -> NormalisedWeight:
    weight = layer.weight.detach()
    outputs = outputs_dim(layer)
    linear_map: LinearMap = MatrixMap()
    if size is None:
        rows, columns = as_matrix(weight, outputs).shape
        u, v = weight.new_empty(rows), weight.new_empty(columns)
    else:
        assert isinstance(layer, _ConvNd)
        try:
            linear_map = convolution_map(layer)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        v = weight.new_empty(size)
        u = torch.empty_like(linear_map.forward([weight], [v])[0])
    (u, v), _ = _units([u.normal_(), v.normal_()], eps)
    made = NormalisedWeight(linear_map, outputs, u, v, eps)
    mapped = [made.mapped(weight)]
    _power_iteration(_Layers([made], mapped), [made], mapped, INITIAL_ITERATIONS)
    return made


def _convolution_inputs(
    critic: nn.Module, layers: Iterable[MatrixLayer], example: Tensor
) -> dict[nn.Module, torch.Size]:
    """The shape of one sample at the input of every convolution."""
    sizes: dict[nn.Module, torch.Size] = {}

    def note(layer: nn.Module, args: Any) -> None:
        sizes.setdefault(layer, args[0].shape[1:])

    convolutions = [layer for layer in layers if isinstance(layer, _ConvNd)]
    handles = [layer.register_forward_pre_hook(note) for layer in convolutions]
    modes = [(module, module.training) for module in critic.modules()]
    try:
        with torch.no_grad():
            critic.eval()(example)
    finally:
        for module, mode in modes:
            module.training = mode
        for handle in handles:
            handle.remove()
    if any(layer not in sizes for layer in convolutions):
        raise ValueError("example: critic(example) does not use every convolution layer, whose input size is needed")
    return sizes
