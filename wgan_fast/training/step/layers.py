"""The kinds of layers whose part in the critic's gradients ``feedforward.py`` writes out, one class per kind.

A step has one batch of rows [real; fake; x̂]. In a layer, x is what goes in and y what comes out; the signal is the
gradient with respect to y, and the tangent the direction in which x̂ is differentiated a second time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wgan_fast.onednn import product

aten: Any = torch.ops.aten

NARROW = 16
"""Up to this many columns a product is computed in its transposed form, ten times faster on the CPU for two."""


class Step(NamedTuple):
    """What the layers need to know of a step.

    ``weights``: the parameters, and the tensors that the products use for them. ``classes``: of each row, for a
    conditional critic. ``judged``: the rows of real and generated samples, whose scores the loss has.
    """

    weights: dict[Any, Tensor]
    classes: Tensor | None
    judged: slice

    def vectors(self, embedding: nn.Embedding) -> Tensor:
        """Of each row's class."""
        assert self.classes is not None
        return self.weights[embedding.weight][self.classes]

    def by_class(self, embedding: nn.Embedding, signal: Tensor, rows: slice | None = None) -> dict[Tensor, Tensor]:
        """The vectors' gradient: per class, the sum of the signal, which these rows have."""
        assert self.classes is not None
        classes = self.classes if rows is None else self.classes[rows]
        table = torch.zeros_like(embedding.weight)
        return {embedding.weight: table.index_add_(0, classes, signal.to(table.dtype))}


class Layer:
    """The passes of a step through a layer, whose parameters ``modules`` hold."""

    multiplies_input = False
    """Whether the weight gradients are products with x, in whose rows of x̂ they then find the tangent."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules
        self.module: Any = modules[0]

    def parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules for p in module.parameters()]

    def served(self) -> bool:
        """Whether these settings of the module are written out."""
        return True

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """y, in place of x where no later pass needs that."""
        raise NotImplementedError

    def backward(self, signal: Tensor, x: Tensor, y: Tensor, step: Step) -> Tensor:
        """The gradient with respect to x; it may overwrite the signal."""
        return signal.reshape(x.shape)

    def tangent(self, tangent: Tensor, y: Tensor, step: Step) -> Tensor:
        """The tangent behind the layer; it may overwrite y, whose last use this is."""
        raise NotImplementedError

    def weight_gradients(self, signal: Tensor, x: Tensor, step: Step) -> dict[Tensor, Tensor]:
        """The gradient of every parameter."""
        return {}


class Flatten(Layer):
    def served(self) -> bool:
        return (self.module.start_dim, self.module.end_dim) == (1, -1)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return x.flatten(1)

    def tangent(self, tangent: Tensor, y: Tensor, step: Step) -> Tensor:
        return tangent.flatten(1)


class ReLU(Layer):
    """Overwrites its input: its derivative is a function of the output."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return x.relu_()

    def backward(self, signal: Tensor, x: Tensor, y: Tensor, step: Step) -> Tensor:
        return self.times_slope(signal, y, out=signal)

    def tangent(self, tangent: Tensor, y: Tensor, step: Step) -> Tensor:
        return self.times_slope(tangent, y, out=y)

    def times_slope(self, values: Tensor, y: Tensor, out: Tensor) -> Tensor:
        return aten.threshold_backward.grad_input(values, y, 0, grad_input=out)  # type: ignore[no-any-return]


class LeakyReLU(ReLU):
    def served(self) -> bool:
        return bool(self.module.negative_slope > 0)  # else the output's sign is not the input's

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return F.leaky_relu_(x, self.module.negative_slope)

    def times_slope(self, values: Tensor, y: Tensor, out: Tensor) -> Tensor:
        slope = self.module.negative_slope
        return aten.leaky_relu_backward.grad_input(values, y, slope, True, grad_input=out)  # type: ignore[no-any-return]


class Linear(Layer):
    multiplies_input = True

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.map(x, step.weights[self.module.weight], step.weights.get(self.module.bias))

    def backward(self, signal: Tensor, x: Tensor, y: Tensor, step: Step) -> Tensor:
        return product(signal, step.weights[self.module.weight].t())

    def tangent(self, tangent: Tensor, y: Tensor, step: Step) -> Tensor:
        return self.map(tangent, step.weights[self.module.weight], None)

    def weight_gradients(self, signal: Tensor, x: Tensor, step: Step) -> dict[Tensor, Tensor]:
        parameter, bias = self.module.weight, self.module.bias
        gradient, bias_dims = self.weight_gradient(signal, x, step.weights[parameter])
        if gradient.dtype != parameter.dtype or gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)  # the step's kernels walk over both together
        if bias is None:
            return {parameter: gradient}
        return {parameter: gradient, bias: signal[step.judged].sum(bias_dims, dtype=bias.dtype)}

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, weight, bias)

    def weight_gradient(self, signal: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, list[int]]:
        """The weight's gradient, and over which dimensions of the signal the bias's is a sum."""
        rows, columns = signal.flatten(0, -2), x.flatten(0, -2)
        narrow = columns.shape[1] <= NARROW and x.device.type == "cpu"
        gradient = columns.t().mm(rows).t() if narrow else product(rows.t(), columns.t())
        return gradient, list(range(signal.dim() - 1))


class Conv2d(Linear):
    def served(self) -> bool:
        return self.module.padding_mode == "zeros" and not isinstance(self.module.padding, str)

    def backward(self, signal: Tensor, x: Tensor, y: Tensor, step: Step) -> Tensor:
        return self.gradients(signal, x, step.weights[self.module.weight], [True, False, False])[0]

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv = self.module
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    def weight_gradient(self, signal: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, list[int]]:
        return self.gradients(signal, x, weight, [False, True, False])[1], [0, 2, 3]

    def gradients(self, signal: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, ...]:
        conv = self.module
        sizes = (list(conv.stride), list(conv.padding), list(conv.dilation))
        found: tuple[Tensor, ...] = aten.convolution_backward(
            signal, x, weight, None, *sizes, False, [0, 0], conv.groups, wanted
        )
        return found


class Shift(Layer):
    """A vector of an embedding, the class's, added to each sample's channels: a bias that depends on the sample."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        vectors = step.vectors(self.module)
        return x.add_(vectors.reshape(*vectors.shape, *[1] * (x.dim() - 2)))

    def tangent(self, tangent: Tensor, y: Tensor, step: Step) -> Tensor:
        return tangent

    def weight_gradients(self, signal: Tensor, x: Tensor, step: Step) -> dict[Tensor, Tensor]:
        judged = signal[step.judged].flatten(2).sum(2) if signal.dim() > 2 else signal[step.judged]
        return step.by_class(self.module, judged, step.judged)


class Projection(Layer):
    """Scores <w + p_y, x> + b of flattened features: a linear head, and an embedding with a vector p_y of class y."""

    multiplies_input = True

    def __init__(self, head: nn.Module, embedding: nn.Embedding) -> None:
        super().__init__(head, embedding)
        self.embedding = embedding

    def served(self) -> bool:
        head = self.module
        return type(head) is nn.Linear or (type(head) is nn.Conv2d and head.groups == 1 and not any(head.padding))

    def weight(self, step: Step) -> Tensor:
        """``(B, features)``: w + p_y."""
        return step.vectors(self.embedding) + step.weights[self.module.weight].reshape(1, -1)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        scores = (x * self.weight(step)).sum(1)
        return scores if self.module.bias is None else scores + step.weights[self.module.bias]

    def backward(self, signal: Tensor, x: Tensor, y: Tensor, step: Step) -> Tensor:
        return signal.reshape(-1, 1) * self.weight(step)

    def weight_gradients(self, signal: Tensor, x: Tensor, step: Step) -> dict[Tensor, Tensor]:
        weight, bias = self.module.weight, self.module.bias
        rows = signal.reshape(-1, 1) * x
        found = {weight: rows.sum(0).reshape(weight.shape).to(weight.dtype), **step.by_class(self.embedding, rows)}
        if bias is not None:
            found[bias] = signal[step.judged].sum(dtype=bias.dtype).reshape(1)
        return found


KINDS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.ReLU: ReLU,
    nn.LeakyReLU: LeakyReLU,
    nn.Flatten: Flatten,
}
