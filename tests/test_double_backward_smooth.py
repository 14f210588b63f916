"""Smooth activations within exact_shortcut equal eager: every spelling, in place, at every order, in every dtype."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from samples import DTYPES
from test_double_backward import in_eagers_order, penalty
from test_double_backward_memory import PeakBytes
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wgan_fast.double_backward import exact_shortcut, smooth

Activation = Callable[[Tensor], Tensor]

FUSED: dict[str, Activation] = {
    "F.silu": F.silu,
    "F.silu(inplace)": lambda x: F.silu(x, inplace=True),
    "nn.SiLU": nn.SiLU(),
    "nn.SiLU(inplace)": nn.SiLU(inplace=True),
    "F.gelu": F.gelu,
    "F.gelu(tanh)": lambda x: F.gelu(x, approximate="tanh"),
    "nn.GELU": nn.GELU(),
    "nn.GELU(tanh)": nn.GELU("tanh"),
    "F.elu": lambda x: F.elu(x, 0.7),
    "F.elu(negative alpha)": lambda x: F.elu(x, -0.7),
    "F.elu(inplace)": lambda x: F.elu(x, 0.7, inplace=True),
    "F.elu_": F.elu_,
    "nn.ELU": nn.ELU(1.3),
    "F.celu": lambda x: F.celu(x, 0.3),
    "F.celu(inplace)": lambda x: F.celu(x, 0.3, inplace=True),
    "torch.celu": torch.celu,
    "torch.celu_": torch.celu_,
    "nn.CELU": nn.CELU(1.7),
    "F.selu": F.selu,
    "F.selu(inplace)": lambda x: F.selu(x, inplace=True),
    "torch.selu_": torch.selu_,
    "nn.SELU": nn.SELU(),
    "F.softplus": F.softplus,
    "nn.Softplus": nn.Softplus(2.0, 1.5),
    "torch.tanh": torch.tanh,
    "Tensor.tanh": Tensor.tanh,
    "torch.tanh_": torch.tanh_,
    "Tensor.tanh_": Tensor.tanh_,
    "F.tanh": F.tanh,
    "nn.Tanh": nn.Tanh(),
    "torch.sigmoid": torch.sigmoid,
    "Tensor.sigmoid": Tensor.sigmoid,
    "torch.sigmoid_": torch.sigmoid_,
    "Tensor.sigmoid_": Tensor.sigmoid_,
    "torch.special.expit": torch.special.expit,
    "nn.Sigmoid": nn.Sigmoid(),
    "F.mish": F.mish,
    "F.mish(inplace)": lambda x: F.mish(x, inplace=True),
    "nn.Mish": nn.Mish(),
    "F.hardswish": F.hardswish,
    "F.hardswish(inplace)": lambda x: F.hardswish(x, inplace=True),
    "nn.Hardswish": nn.Hardswish(),
    "F.softsign": F.softsign,
    "nn.Softsign": nn.Softsign(),
    "F.logsigmoid": F.logsigmoid,
    "nn.LogSigmoid": nn.LogSigmoid(),
}
LEFT_TO_AUTOGRAD: dict[str, Activation] = {
    "celu_(negative alpha)": lambda x: torch.celu_(x, -0.3),
    "exp": torch.exp,
    "softmax": lambda x: x.softmax(0),
    "glu": lambda x: F.glu(x, 0),
}
KINKS = [0.0, -0.0, 3.0, -3.0, 0.75, 0.5]


def is_fused(y: Tensor) -> bool:
    return y.grad_fn is not None and "Smooth" in y.grad_fn.name()


def points(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(5)
    return torch.cat([torch.tensor(KINKS), 2 * torch.randn(194)]).to(dtype).requires_grad_()


def orders(activation: Activation, x: Tensor, context: AbstractContextManager[Any]) -> list[Tensor]:
    """Value, gradient, its derivatives with a graph and without, and the third order, along random directions."""
    torch.manual_seed(3)
    with context:
        y = activation(x * 1)  # no leaf, so that it may be changed in place
    g, t, *directions = (torch.randn_like(y, dtype=torch.float64).to(y.dtype) for _ in range(4))
    g, t = g.requires_grad_(), t.requires_grad_()
    (first,) = torch.autograd.grad(y, x, g, create_graph=True)
    without_graph = torch.autograd.grad(first, [g, x], t, retain_graph=True)
    second = torch.autograd.grad(first, [g, x], t, create_graph=True)
    third = torch.autograd.grad(second, [g, x, t], directions)
    return [y, first, *without_graph, *second, *third]


@pytest.mark.parametrize("name", FUSED)
def test_every_order_equals_eagers(name: str) -> None:
    x = points()
    for ours, eager in zip(
        orders(FUSED[name], x, exact_shortcut()), orders(FUSED[name], x, nullcontext()), strict=True
    ):
        torch.testing.assert_close(ours, eager, rtol=1e-12, atol=1e-12)
    with exact_shortcut():
        assert is_fused(FUSED[name](x * 1))
    with in_eagers_order():
        assert not is_fused(FUSED[name](x * 1))


@pytest.mark.parametrize("name", LEFT_TO_AUTOGRAD)
def test_others_are_left_to_autograd(name: str) -> None:
    with exact_shortcut():
        assert not is_fused(LEFT_TO_AUTOGRAD[name](points() * 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUSED)
def test_every_dtype_is_as_near_to_float64_as_eager(name: str, dtype: torch.dtype) -> None:
    x = points(dtype)
    exact = orders(FUSED[name], x.detach().double().requires_grad_(), nullcontext())
    # The same directions, rounded as those of the low precision were.
    rounded = orders_at_rounded_directions(FUSED[name], x)
    eager, ours = orders(FUSED[name], x, nullcontext()), orders(FUSED[name], x, exact_shortcut())
    assert len(exact) == len(rounded)
    for index in range(4):  # value, gradient, and what the kernel computes
        scale = rounded[index].abs().max()
        allowed = 2 * (eager[index].double() - rounded[index]).abs().max() + 8 * torch.finfo(dtype).eps * scale
        assert ours[index].dtype == dtype
        assert (ours[index].double() - rounded[index]).abs().max() <= allowed


def orders_at_rounded_directions(activation: Activation, x: Tensor) -> list[Tensor]:
    """``orders`` in fp64, at the values that x and the directions have in the dtype of x."""
    wide = x.detach().double().requires_grad_()
    torch.manual_seed(3)
    y = activation(wide * 1)
    g, t, *directions = (torch.randn_like(y).to(x.dtype).double() for _ in range(4))
    g, t = g.requires_grad_(), t.requires_grad_()
    (first,) = torch.autograd.grad(y, wide, g, create_graph=True)
    second = torch.autograd.grad(first, [g, wide], t, create_graph=True)
    return [y, first, *second, *second, *torch.autograd.grad(second, [g, wide, t], directions)]


@pytest.mark.parametrize("name", FUSED)
def test_second_order_against_finite_differences(name: str) -> None:
    x = torch.tensor([-3.7, -2.2, -0.6, -0.2, 0.3, 0.6, 1.9, 3.6], dtype=torch.float64, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        with exact_shortcut():
            return FUSED[name](x * 1)

    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))


# ----------------------------------------------------------------------------------------- what it is made for


class Operations(TorchDispatchMode):
    """Counts what is dispatched, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["F.silu", "F.gelu", "F.gelu(tanh)", "F.elu", "F.softplus", "torch.tanh", "F.mish"])
def test_the_double_backward_is_one_kernel(name: str) -> None:
    """Counted on the dispatcher are the two empty results alone; eager runs a chain."""

    def count(context: AbstractContextManager[Any]) -> int:
        x = points()
        with context:
            y = FUSED[name](x)
        g = torch.ones_like(y, requires_grad=True)
        (first,) = torch.autograd.grad(y, x, g, create_graph=True)
        with Operations() as operations:
            torch.autograd.grad(first, [g, x], torch.ones_like(first))
        return operations.count

    passed_on = 1 if name == "torch.tanh" else 0  # from y to x by the backward of tanh itself
    assert count(exact_shortcut()) == 1 + 2 + passed_on  # ones_like, two results
    assert count(nullcontext()) >= 1 + 2 + passed_on + 1


def test_only_what_is_wanted_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = points(), torch.ones((), dtype=torch.float64, requires_grad=True)
    with exact_shortcut():
        y = F.silu(x)
    (first,) = torch.autograd.grad(y, x, weight.expand_as(y), create_graph=True)
    needed: list[tuple[bool, bool]] = []
    compute = smooth.ops.activation_double_backward

    def record(*arguments: Any) -> Any:
        needed.append(arguments[5])
        return compute(*arguments)

    monkeypatch.setattr(smooth.ops, "activation_double_backward", record)
    for leaves in ([weight], [x], [weight, x]):
        torch.autograd.grad(first, leaves, torch.ones_like(first), retain_graph=True)
    assert needed == [(True, False), (False, True), (True, True)]


@pytest.mark.parametrize("name", FUSED)
def test_peak_memory_is_not_above_eagers(name: str) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(6, 64)]

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return FUSED[name](x)

    for _ in range(2):
        layers += [Layer(), nn.Linear(64, 64)]
    critic = nn.Sequential(*layers, Layer(), nn.Linear(64, 1))
    parameters = list(critic.parameters())
    peaks = []
    for context in (exact_shortcut(), nullcontext()):
        with PeakBytes() as memory:
            value = penalty(critic, torch.randn(512, 6, requires_grad=True), context)
            torch.autograd.grad(value, parameters, allow_unused=True)
        peaks.append(memory.peak)
    assert 0 < peaks[0] <= peaks[1]


# ------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_as_torch_casts(name: str, dtype: torch.dtype) -> None:
    results = []
    for context in (exact_shortcut(), nullcontext()):
        x = points(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16), context:
            y = FUSED[name](x * 1)
        (first,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
        results.append((y, first, *torch.autograd.grad(first.float().square().sum(), x)))
    for ours, eager in zip(*results, strict=True):
        assert ours.dtype == eager.dtype
        low = torch.bfloat16 in (dtype, y.dtype)
        assert (ours.double() - eager.double()).abs().max() <= (5e-2 if low else 1e-5) * eager.double().abs().max()


@pytest.mark.parametrize("activation", [F.silu, torch.tanh, F.softsign])
def test_batched_gradients_equal_eagers(activation: Activation) -> None:
    """``is_grads_batched``, which hands tensors without memory to the backward."""
    x = points()
    rows = torch.eye(len(x), dtype=x.dtype)
    results = []
    for context in (exact_shortcut(), nullcontext()):
        with context:
            y = activation(x)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first, x, rows, is_grads_batched=True)[0])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", [torch.tanh_, lambda h: F.silu(h, inplace=True), F.elu_])
@pytest.mark.parametrize("view", [lambda h: h.view(-1), lambda h: h[1:], lambda h: h.t()])
def test_in_place_on_a_view_equals_eager(activation: Activation, view: Activation) -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    results = []
    for context in (exact_shortcut(), nullcontext()):
        with context:
            h = x @ weight
            y = activation(view(h))
            scores = (h @ weight).sum() + (y * y).sum()
        (first,) = torch.autograd.grad(scores, x, create_graph=True)
        results.append([h, y, first, *torch.autograd.grad(first.square().sum(), [x, weight])])
    for ours, eager in zip(*results, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-12, atol=1e-12)


def test_in_place_on_a_leaf_raises_eagers_error() -> None:
    with exact_shortcut(), pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        F.silu(points(), inplace=True)


def test_what_was_saved_and_then_changed_raises_as_in_eager() -> None:
    """silu saves its input, tanh its output."""
    for activation, saves_output in ((F.silu, False), (torch.tanh, True)):
        for changes_output in (False, True):
            h = points() * 1
            with exact_shortcut():
                y = activation(h)
            with torch.no_grad():
                (y if changes_output else h).mul_(2)
            if changes_output == saves_output:
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    torch.autograd.grad(y.sum(), h)
            else:
                torch.autograd.grad(y.sum(), h)


# --------------------------------------------------------------------------------------- torch's own sample inputs

OF_OPINFO = {
    "nn.functional.silu": F.silu,
    "nn.functional.gelu": F.gelu,
    "nn.functional.elu": F.elu,
    "nn.functional.celu": F.celu,
    "nn.functional.selu": F.selu,
    "nn.functional.softplus": F.softplus,
    "nn.functional.mish": F.mish,
    "nn.functional.hardswish": F.hardswish,
    "nn.functional.softsign": F.softsign,
    "nn.functional.logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


@pytest.mark.parametrize("name", OF_OPINFO)
def test_torchs_own_samples_equal_eager(name: str) -> None:
    invocations = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    (info,) = [op for op in invocations.op_db if op.name == name and not op.variant_test_name]
    count = 0
    for sample in info.sample_inputs("cpu", torch.float64, requires_grad=True):
        count += 1

        def activation(x: Tensor, sample: Any = sample) -> Tensor:
            return OF_OPINFO[name](x, *sample.args, **sample.kwargs)

        x = sample.input.detach().requires_grad_()
        for ours, eager in zip(
            orders(activation, x, exact_shortcut()), orders(activation, x, nullcontext()), strict=True
        ):
            torch.testing.assert_close(ours, eager, rtol=1e-12, atol=1e-12)
            assert ours.stride() == eager.stride()
    assert count
