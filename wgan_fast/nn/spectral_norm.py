"""Spectral normalisation of all layers of a critic, in one go before each of its forward passes.

One power iteration of a weight W with its singular vectors u, v (Miyato et al. 2018, algorithm 1):

    u <- W v / ‖W v‖,   s = Wᵀ u,   v <- s / ‖s‖,   σ = uᵀ W v = ⟨s, v⟩,   the layer uses W / σ

torch.nn.utils.parametrizations.spectral_norm multiplies by W a third time for σ. With u and v held constant and G the
gradient with respect to W / σ,

    dL/dW = (G - ⟨G, W⟩ / σ · u vᵀ) / σ

which one autograd Function computes. On CUDA layers of one shape are stacked: one launch for all of them. On the CPU
a launch costs less than the copy into the stack, so each layer goes by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from wgan_fast.nn.linear_maps import LinearMap, MatrixMap, convolution_map
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

    Equivalent to, and in ``state_dict`` interchangeable with::

        for layer in critic.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, ...)):
                torch.nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=n_power_iterations, eps=eps)

    with one difference: the power iteration takes its step once in each forward pass of ``critic`` in training mode,
    not at each access of a weight. In evaluation mode, and where a layer is called on its own, u and v stay as they
    are. The buffers change in place and nothing waits for the device, so a CUDA graph can hold it.

    The ``matrix`` form divides a convolution by the largest singular value of its kernel, reshaped to a matrix of one
    row an output channel (Miyato et al. 2018, section 2.1), which is not that of the convolution: for a k x k kernel of
    stride 1 the convolution's may be k times as large (Tsuzuku et al. 2018, theorem 1). The ``operator`` form iterates
    with the convolution and its transpose themselves (Gouk et al. 2021, Regularisation of Neural Networks by Enforcing
    Lipschitz Continuity, section 3.3) and divides by the true value, for two convolutions of one sample an iteration.

    Args:
        critic: a module whose linear and (transposed) convolution layers are all normalised.
        convolution: ``matrix`` or ``operator``.
        example: ``(1, *sample_shape)``, from which ``operator`` learns each layer's input size: the critic is called
            with it once, in evaluation mode.
        n_power_iterations: in each forward pass.
        eps: the least norm that is divided by.

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
        self.ready: Tensor | None = None
        """The weight of the critic's forward pass that is going on."""

    def forward(self, weight: Tensor) -> Tensor:
        return self.ready if self.ready is not None else _normalise([(self, weight)], 0)[0]

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def mapped(self, weight: Tensor) -> Tensor:
        """``weight`` in the shape that the linear map takes."""
        return as_matrix(weight, self.outputs) if isinstance(self.linear_map, MatrixMap) else weight

    def unmapped(self, mapped: Tensor, shape: torch.Size) -> Tensor:
        return from_matrix(mapped, shape, self.outputs) if isinstance(self.linear_map, MatrixMap) else mapped


class PowerIteration:
    """The critic's hooks: before its forward pass one step of all layers and their weights, which go after it."""

    def __init__(self, layers: list[MatrixLayer], iterations: int) -> None:
        self.layers = layers
        self.iterations = iterations

    def before(self, critic: nn.Module, args: Any) -> None:
        parts = [_parametrization(layer) for layer in self.layers]
        weights = _normalise(parts, self.iterations if critic.training else 0)
        for (part, _), weight in zip(parts, weights, strict=True):
            part.ready = weight

    def after(self, critic: nn.Module, args: Any, output: Any) -> None:
        for layer in self.layers:
            _parametrization(layer)[0].ready = None


def _parametrization(layer: Any) -> tuple[NormalisedWeight, Tensor]:
    chain = layer.parametrizations.weight
    return chain[0], chain.original


def _normalise(parts: Sequence[tuple[NormalisedWeight, Tensor]], iterations: int) -> list[Tensor]:
    """All weights divided by their σ, after so many steps of the power iteration."""
    weights: list[Tensor] = [weight for _, weight in parts]
    for group in _groups(parts):
        members, originals = [parts[i][0] for i in group], [parts[i][1] for i in group]
        first, shape = members[0], originals[0].shape
        mapped = [first.mapped(weight) for weight in originals]
        stack = torch.stack(mapped) if len(mapped) > 1 else mapped[0][None]
        with torch.no_grad(), torch.autocast(stack.device.type, enabled=False):
            u, v, sigma = _power_iteration(members, stack, iterations)
        normalised = _divide(stack, u, v, sigma, first.linear_map)
        for i, weight in zip(group, normalised.unbind(0), strict=True):
            weights[i] = first.unmapped(weight, shape)
    return weights


def _groups(parts: Sequence[tuple[NormalisedWeight, Tensor]]) -> list[list[int]]:
    """Places of the layers that go in one launch: on CUDA those of one shape, elsewhere each by itself."""
    groups: dict[Any, list[int]] = {}
    for i, (part, weight) in enumerate(parts):
        alike = (part.linear_map, part.outputs, part.eps, weight.shape, weight.dtype, weight.device, part._u.shape)
        groups.setdefault(alike if weight.is_cuda else i, []).append(i)
    return list(groups.values())


def _power_iteration(members: list[NormalisedWeight], stack: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """u (k, ...), v (k, ...) and σ (k,) of the stack, and the members' buffers changed in place."""
    linear_map, eps = members[0].linear_map, members[0].eps
    u, v = (torch.stack([getattr(member, name) for member in members]) for name in ("_u", "_v"))
    if iterations == 0:
        return u, v, _inner(u, linear_map.forward(stack, v))
    for _ in range(iterations):
        u = _unit(linear_map.forward(stack, v), eps)
        image = linear_map.transposed(stack, u, v)
        v = _unit(image, eps)
    torch._foreach_copy_([member._u for member in members], list(u.unbind(0)))
    torch._foreach_copy_([member._v for member in members], list(v.unbind(0)))
    return u, v, _inner(image, v)


class _Divide(torch.autograd.Function):
    """W / σ of a stack of weights, σ = ⟨u, W v⟩."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, linear_map: LinearMap) -> Tensor:
        ctx.save_for_backward(weight, u, v, sigma)
        ctx.linear_map = linear_map
        return weight / _over(sigma, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        weight, u, v, sigma = ctx.saved_tensors
        if torch.is_grad_enabled():
            sigma = _inner(u, ctx.linear_map.forward(weight, v))
        share = _inner(gradient, weight) / sigma
        total = ctx.linear_map.add_outer(gradient, weight, -_over(share, u) * u, v)
        total = total / _over(sigma, total) if torch.is_grad_enabled() else total.div_(_over(sigma, total))
        return total, None, None, None, None


_divide: Callable[[Tensor, Tensor, Tensor, Tensor, LinearMap], Tensor] = _Divide.apply


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """(k,): the scalar products of k pairs."""
    if len(a) == 1:
        return torch.dot(a.reshape(-1), b.reshape(-1))[None]
    return (a * b).flatten(1).sum(dim=1)


def _over(scalars: Tensor, like: Tensor) -> Tensor:
    return scalars.view(-1, *[1] * (like.dim() - 1))


def _unit(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return x / _over(norm.clamp_min(eps), x)


def _normalised_weight(name: str, layer: MatrixLayer, size: torch.Size | None, eps: float) -> NormalisedWeight:
    weight = layer.weight.detach()
    outputs = outputs_dim(layer)
    linear_map: LinearMap = MatrixMap()
    if size is None:
        rows, columns = as_matrix(weight, outputs).shape
        u, v = weight.new_empty(1, rows), weight.new_empty(1, columns)
    else:
        assert isinstance(layer, _ConvNd)
        try:
            linear_map = convolution_map(layer)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        v = weight.new_empty(1, *size)
        u = torch.empty_like(linear_map.forward(weight[None], v))
    u, v = _unit(u.normal_(), eps), _unit(v.normal_(), eps)
    made = NormalisedWeight(linear_map, outputs, u[0], v[0], eps)
    with torch.no_grad():
        _power_iteration([made], made.mapped(weight)[None], INITIAL_ITERATIONS)
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
