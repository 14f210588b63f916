"""The exact shortcut equals eager: every operation at every value, the zoo of critics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from critics import ZOO, build
from torch import Tensor, nn
from torch.func import functional_call

from wgan_fast.double_backward import exact_shortcut

inf, nan = float("inf"), float("nan")


def in_eagers_order() -> AbstractContextManager[Any]:
    """The shortcut with everything that rounds differently left to torch: bit for bit what eager computes."""
    return exact_shortcut(direct_convolution=False, fast_linear=False, fused_second_order=False)


def penalty(critic: Callable[..., Any], x: Tensor, context: AbstractContextManager[Any], *args: Any) -> Tensor:
    torch.manual_seed(1)
    with context:
        scores = critic(x, *args)
    scores = scores[0] if isinstance(scores, tuple) else scores
    (gradients,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
    return ((gradients.flatten(1).norm(dim=1) - 1) ** 2).mean()


def value_and_gradients(
    critic: nn.Module, x: Tensor, context: AbstractContextManager[Any], *args: Any
) -> list[Tensor | None]:
    """The penalty, then its gradients for every parameter and the points; None where autograd has none."""
    x = x.detach().clone().requires_grad_()
    critic = copy.deepcopy(critic)
    value = penalty(critic, x, context, *args)
    return [value, *torch.autograd.grad(value, [*critic.parameters(), x], allow_unused=True)]


def assert_same(ours: list[Tensor | None], eager: list[Tensor | None], rtol: float = 0.0) -> None:
    """The same tensors defined; all within rtol of the largest entry of any, bit-identical for rtol=0.

    Of any: a bias before a norm has a gradient of rounding errors alone.
    """
    largest = max((float(b.detach().abs().max()) for b in eager if b is not None and b.numel()), default=0.0)
    for a, b in zip(ours, eager, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=0.0, atol=rtol * largest)


# ---------------------------------------------------------------- critics


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zoo_is_bit_identical_to_eager(name: str, dtype: torch.dtype) -> None:
    critic, x, args = build(name, dtype)
    eager = value_and_gradients(critic, x, nullcontext(), *args)
    assert_same(value_and_gradients(critic, x, in_eagers_order(), *args), eager)
    assert any(g is not None and bool(g.any()) for g in eager[1:])


@pytest.mark.parametrize("name", ZOO)
def test_zoo_with_direct_convolutions_equals_eager(name: str) -> None:
    critic, x, args = build(name)
    eager = value_and_gradients(critic, x, nullcontext(), *args)
    assert_same(value_and_gradients(critic, x, exact_shortcut(), *args), eager, 1e-12)


@pytest.mark.parametrize("name", ZOO)
def test_zoo_with_direct_convolutions_is_as_near_to_float64_as_eager(name: str) -> None:
    critic, x, args = build(name, torch.float32)
    exact = value_and_gradients(copy.deepcopy(critic).double(), x.double(), nullcontext(), *args)

    def error(context: AbstractContextManager[Any]) -> float:
        pairs = zip(value_and_gradients(critic, x, context, *args), exact, strict=True)
        return max(float((a - b).norm() / b.norm().clamp_min(1e-3)) for a, b in pairs if a is not None)

    assert error(exact_shortcut()) <= 2 * error(nullcontext()) + 1e-6


@pytest.mark.parametrize("name", ["dcgan", "resnet", "pooled", "instancenorm"])
@pytest.mark.parametrize("direct", [False, True])
def test_channels_last_equals_eager(name: str, direct: bool) -> None:
    critic, x, args = build(name)
    critic, x = critic.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    eager = value_and_gradients(critic, x, nullcontext(), *args)
    context = exact_shortcut(direct_convolution=direct, fused_second_order=direct)
    assert_same(value_and_gradients(critic, x, context, *args), eager, 1e-12 if direct else 0.0)


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet", "sequence", "conditional"])
def test_bfloat16_is_bit_identical_to_eager(name: str) -> None:
    critic, x, args = build(name, torch.bfloat16)
    eager = value_and_gradients(critic, x, nullcontext(), *args)
    assert_same(value_and_gradients(critic, x, in_eagers_order(), *args), eager)


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet", "sequence", "conditional", "spectral_norm"])
def test_penalty_in_a_whole_critic_loss_equals_eager(name: str) -> None:
    """Biases have true gradients then; the zeros are added to them."""
    critic, x, args = build(name)

    def gradients(context: AbstractContextManager[Any]) -> list[Tensor | None]:
        twin = copy.deepcopy(critic)
        with nullcontext():
            difference = twin(x + 1, *args).mean() - twin(x, *args).mean()
        loss = difference + 10 * penalty(twin, x.clone().requires_grad_(), context, *args)
        loss.backward()
        return [p.grad for p in twin.parameters()]

    assert_same(gradients(in_eagers_order()), gradients(nullcontext()))


def test_functional_call_and_two_calls_in_one_context_equal_eager() -> None:
    critic, x, _ = build("mlp")
    parameters = {name: p.detach().clone().requires_grad_() for name, p in critic.named_parameters()}

    def gradients(context: AbstractContextManager[Any]) -> list[Tensor | None]:
        points = x.clone().requires_grad_()
        with context:
            scores = functional_call(critic, parameters, (points,)) * critic(2 * points)
        (g,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
        leaves = [*parameters.values(), *critic.parameters(), points]
        return list(torch.autograd.grad(g.square().sum(), leaves, allow_unused=True))

    assert_same(gradients(in_eagers_order()), gradients(nullcontext()))


def test_penalty_on_a_gradient_with_respect_to_inputs_and_weights_equals_eager() -> None:
    """First-order weight gradients, differentiated again: the second order through x is real there."""
    critic, x, _ = build("mlp_smooth_mixed")
    critic.append(nn.PReLU(dtype=torch.float64))

    def gradients(context: AbstractContextManager[Any]) -> list[Tensor | None]:
        points = x.clone().requires_grad_()
        leaves = [points, *critic.parameters()]
        with context:
            scores = critic(points)
        first = torch.autograd.grad(scores.square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=True))

    assert_same(gradients(in_eagers_order()), gradients(nullcontext()), 1e-12)


def test_backward_with_create_graph_equals_eager() -> None:
    """x.grad as the input gradient, as some scripts have it: every node of the graph is differentiated."""
    critic, x, _ = build("resnet")

    def gradients(context: AbstractContextManager[Any]) -> list[Tensor | None]:
        points = x.clone().requires_grad_()
        with context:
            scores = critic(points)
        scores.sum().backward(create_graph=True, inputs=[points])
        assert points.grad is not None
        gradient, points.grad = points.grad, None
        return list(torch.autograd.grad(gradient.square().sum(), list(critic.parameters()), allow_unused=True))

    assert_same(gradients(in_eagers_order()), gradients(nullcontext()))


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_backward_through_all_leaves_equals_eager() -> None:
    critic, x, _ = build("mlp")

    def gradients(context: AbstractContextManager[Any]) -> list[Tensor | None]:
        twin, points = copy.deepcopy(critic), x.clone().requires_grad_()
        with context:
            scores = twin(points)
        scores.sum().backward(create_graph=True)
        leaves = [*twin.parameters(), points]
        firsts = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        firsts[-1].square().sum().backward()
        return [leaf.grad for leaf in leaves]

    assert_same(gradients(in_eagers_order()), gradients(nullcontext()))


@pytest.mark.parametrize("name", ["mlp", "dcgan"])
def test_no_zeros_are_carried(name: str) -> None:
    """The claim itself, in counted operations, for critics of four layers.

    Three tangents (the last layer needs none), four weight gradients; ATen's convolution adds a tangent.
    Eager adds a backward pass over the three layers before the last activation.
    """
    critic, x, _ = build(name)

    def count(context: AbstractContextManager[Any], *operations: str) -> int:
        value = penalty(critic, x.clone().requires_grad_(), context)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            torch.autograd.grad(value, list(critic.parameters()), allow_unused=True)
        names = [event.name for event in profile.events()]
        return sum(name in operations for name in names)

    products = ("aten::mm", "aten::convolution", "aten::convolution_backward")
    assert count(exact_shortcut(), *products) == 7
    assert count(in_eagers_order(), *products) == (7 if name == "mlp" else 8)
    assert count(nullcontext(), *products) == count(in_eagers_order(), *products) + (5 if name == "mlp" else 3)
    assert count(exact_shortcut(), "aten::zeros_like") == 3  # for the hidden biases, and not for the weights


# ---------------------------------------------------------------- operations

VALUES = torch.tensor([-inf, -7.0, -1.0, -0.5, -0.3, -1e-40, -0.0, 0.0, 1e-40, 0.3, 0.5, 1.0, 6.0, 7.0, inf, nan])

ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": Tensor.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu_": Tensor.relu_,
    "F.relu(inplace)": lambda x: F.relu(x, inplace=True),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "F.leaky_relu(negative slope)": lambda x: F.leaky_relu(x, -0.5),
    "F.leaky_relu_": lambda x: F.leaky_relu_(x, 0.2),
    "nn.LeakyReLU": nn.LeakyReLU(),
    "nn.LeakyReLU(inplace)": nn.LeakyReLU(0.1, inplace=True),
    "F.relu6": F.relu6,
    "nn.ReLU6(inplace)": nn.ReLU6(inplace=True),
    "F.hardtanh": lambda x: F.hardtanh(x, -0.5, 0.3),
    "F.hardtanh_": lambda x: F.hardtanh_(x, -0.5, 0.3),
    "nn.Hardtanh": nn.Hardtanh(),
    "F.threshold": lambda x: F.threshold(x, 0.3, -2.0),
    "torch.threshold": lambda x: torch.threshold(x, 0.3, -2.0),
    "F.hardshrink": F.hardshrink,
    "Tensor.hardshrink": lambda x: x.hardshrink(0.3),
    "F.softshrink": lambda x: F.softshrink(x, 0.3),
    "nn.Softshrink": nn.Softshrink(),
    "torch.abs": torch.abs,
    "Tensor.abs": Tensor.abs,
    "abs": abs,
    "F.rrelu": lambda x: F.rrelu(x, training=True),
    "F.rrelu(inplace)": lambda x: F.rrelu(x, training=True, inplace=True),
    "nn.RReLU in evaluation": nn.RReLU().eval(),
}

LEFT_TO_AUTOGRAD: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(-0.5, 0.3),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "minimum": lambda x: torch.minimum(x, x.flip(0)),
    "where": lambda x: torch.where(x > 0, x, 0.2 * x),
    "sort": lambda x: x.sort(0).values,
    "dropout": lambda x: F.dropout(x, 0.5),
    "threshold in place": lambda x: F.threshold(x, 0.3, -2.0, inplace=True),
    "silu": F.silu,
    "elu": F.elu,
}

SHAPED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "F.max_pool1d": (lambda x: F.max_pool1d(x, 3, 2, padding=1), (2, 3, 9)),
    "torch.max_pool1d": (lambda x: torch.max_pool1d(x, [2]), (2, 3, 9)),
    "max_pool1d, dilated": (
        lambda x: F.max_pool1d(x, (2,), stride=1, dilation=(3,), ceil_mode=True),
        (2, 3, 9),
    ),
    "max_pool1d, no batch": (lambda x: F.max_pool1d(x, 2), (3, 9)),
    "F.max_pool2d": (lambda x: F.max_pool2d(x, (2, 3), stride=(1, 2), padding=1), (2, 3, 7, 6)),
    "torch.max_pool2d": (lambda x: torch.max_pool2d(x, 2), (2, 3, 7, 6)),
    "nn.MaxPool2d, dilated": (nn.MaxPool2d(2, 1, dilation=2, ceil_mode=True), (2, 3, 7, 6)),
    "max_pool2d, no batch": (lambda x: F.max_pool2d(x, 2), (3, 7, 6)),
    "F.max_pool3d": (lambda x: F.max_pool3d(x, 2, 1), (2, 2, 4, 3, 5)),
    "F.adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 4), (2, 3, 9)),
    "F.adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (None, 2)), (2, 3, 5, 7)),
    "F.adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x, 2), (2, 2, 4, 3, 5)),
    "F.avg_pool1d": (lambda x: F.avg_pool1d(x, 3, stride=2, padding=1), (2, 3, 9)),
    "avg_pool1d, no batch": (lambda x: F.avg_pool1d(x, (2,)), (3, 9)),
    "F.avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, count_include_pad=False), (2, 3, 7, 6)),
    "avg_pool2d, divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), (2, 3, 7, 6)),
    "F.avg_pool3d": (lambda x: F.avg_pool3d(x, 2), (2, 2, 4, 3, 5)),
    "F.adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 4), (2, 3, 9)),
    "F.adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, None)), (2, 3, 5, 7)),
    "F.adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 2), (2, 2, 4, 3, 5)),
    "reflect 1d": (lambda x: F.pad(x, (2, 1), mode="reflect"), (2, 3, 5)),
    "reflect 2d": (nn.ReflectionPad2d((1, 2, 0, 1)), (2, 3, 5, 4)),
    "reflect 2d, no batch": (nn.ReflectionPad2d(1), (3, 5, 4)),
    "reflect 3d": (nn.ReflectionPad3d(1), (1, 2, 3, 4, 3)),
    "replicate 1d": (nn.ReplicationPad1d(2), (2, 3, 5)),
    "replicate 2d": (nn.ReplicationPad2d((1, 2, 0, 1)), (2, 3, 5, 4)),
    "replicate 3d": (nn.ReplicationPad3d(1), (1, 2, 3, 4, 3)),
    "prelu, one weight": (nn.PReLU(), (4, 5)),
    "prelu, a weight a channel": (nn.PReLU(3), (2, 3, 4)),
}

SHAPED_LEFT_TO_AUTOGRAD: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "max_pool2d with indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], (2, 3, 6, 6)),
    "adaptive average to one": (nn.AdaptiveAvgPool2d(1), (2, 3, 6, 6)),
    "zero padding": (lambda x: F.pad(x, (1, 1)), (2, 3, 6)),
    "circular padding": (lambda x: F.pad(x, (1, 1), mode="circular"), (2, 3, 6)),
}


def orders(
    operation: Callable[[Tensor], Tensor], x: Tensor, context: AbstractContextManager[Any]
) -> list[Tensor | None]:
    """Value, gradient, its two derivatives, and the third order, all along random directions."""
    torch.manual_seed(3)
    x = x.detach().clone().requires_grad_()
    weights = [p for p in getattr(operation, "parameters", list)() if p.requires_grad]
    with context:
        y = operation(x * 1)  # not a leaf, so that it may be changed in place
    v = torch.randn_like(y, requires_grad=True)
    first = torch.autograd.grad(y, [x, *weights], v, create_graph=True, allow_unused=True)
    t = torch.randn_like(x, requires_grad=True)
    second = torch.autograd.grad(first[0], [v, x, *weights], t, create_graph=True, allow_unused=True)
    third = torch.autograd.grad(second[0].square().sum(), [t, *weights], allow_unused=True)
    return [y, *first, *second, *third]


def replaced(operation: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether a node of the shortcut stands where the operation was."""
    x = x.detach().clone().requires_grad_()
    with in_eagers_order():
        y = operation(x * 1)
    node = y.grad_fn  # ``y`` is held: from Python 3.12 on a node has no name when its output is gone
    while node is not None and "PiecewiseLinear" not in node.name() and "PReLU" not in node.name():
        node = node.next_functions[0][0] if node.next_functions else None
    return node is not None


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_elementwise_is_bit_identical_to_eager(name: str, dtype: torch.dtype) -> None:
    if "rrelu" in name and dtype == torch.float16:
        pytest.skip("torch has no rrelu for float16 on the CPU")
    operation, x = ELEMENTWISE[name], VALUES.to(dtype).repeat(3)
    for ours, eager in zip(orders(operation, x, in_eagers_order()), orders(operation, x, nullcontext()), strict=True):
        assert (ours is None) == (eager is None)
        if ours is not None:
            torch.testing.assert_close(ours, eager, rtol=0, atol=0, equal_nan=True)
    assert replaced(operation, x)


@pytest.mark.parametrize("name", SHAPED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shaped_is_bit_identical_to_eager(name: str, dtype: torch.dtype) -> None:
    operation, shape = SHAPED[name]
    if isinstance(operation, nn.Module):
        operation = copy.deepcopy(operation).to(dtype)
    x = torch.randn(shape, dtype=dtype)
    x.view(-1)[::7] = 0.0
    assert_same(orders(operation, x, in_eagers_order()), orders(operation, x, nullcontext()))
    assert replaced(operation, x)
    if x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
        ours, eager = orders(operation, x, in_eagers_order()), orders(operation, x, nullcontext())
        assert_same(ours, eager)
        assert ours[0].stride() == eager[0].stride()


def test_max_pool_passes_nan_and_ties_as_eager_does() -> None:
    x = torch.tensor([[1.0, 1.0, nan, 0.0, -0.0, 0.0, -inf, -inf]]).view(1, 1, 8)
    operation = SHAPED["torch.max_pool1d"][0]
    for ours, eager in zip(orders(operation, x, in_eagers_order()), orders(operation, x, nullcontext()), strict=True):
        torch.testing.assert_close(ours, eager, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", LEFT_TO_AUTOGRAD)
def test_what_carries_no_zeros_or_is_smooth_is_left_to_autograd(name: str) -> None:
    operation = LEFT_TO_AUTOGRAD[name]
    x = torch.randn(5, 4, dtype=torch.float64)
    assert_same(orders(operation, x, in_eagers_order()), orders(operation, x, nullcontext()))
    assert not replaced(operation, x)


@pytest.mark.parametrize("name", SHAPED_LEFT_TO_AUTOGRAD)
def test_shaped_that_is_left_to_autograd(name: str) -> None:
    operation, shape = SHAPED_LEFT_TO_AUTOGRAD[name]
    x = torch.randn(shape, dtype=torch.float64)
    assert_same(orders(operation, x, in_eagers_order()), orders(operation, x, nullcontext()))
    assert not replaced(operation, x)


@pytest.mark.parametrize("name", ["F.relu", "F.leaky_relu", "F.hardtanh", "F.softshrink"])
def test_empty_and_strided_inputs(name: str) -> None:
    for x in (torch.randn(0, 3), torch.randn(4, 6)[:, ::2], torch.randn(3, 1).expand(3, 4), torch.randn(())):
        operation = ELEMENTWISE[name]
        assert_same(orders(operation, x, in_eagers_order()), orders(operation, x, nullcontext()))


def test_second_order_of_a_mixed_critic_against_finite_differences() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.3), nn.Linear(4, 4), nn.Tanh(), nn.PReLU(4), nn.Linear(4, 1))
    critic = critic.double()

    def scores(x: Tensor, *parameters: Tensor) -> Tensor:
        with in_eagers_order():
            return functional_call(critic, dict(zip(dict(critic.named_parameters()), parameters, strict=True)), (x,))

    inputs = (torch.randn(3, 3, dtype=torch.float64, requires_grad=True), *critic.parameters())
    assert torch.autograd.gradcheck(scores, inputs)
    assert torch.autograd.gradgradcheck(scores, inputs)
