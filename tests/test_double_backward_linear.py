"""Linear layers by oneDNN equal torch's own to rounding, in every order of derivative; elsewhere nothing changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_double_backward import assert_same, in_eagers_order, value_and_gradients
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import wgan_fast
from wgan_fast import onednn
from wgan_fast.double_backward import exact_shortcut, linear

SHAPES = [(256, 512, 512), (64, 784, 512), (129, 517, 97), (1000, 2100, 17), (2048, 1024, 1)]


@pytest.fixture(params=["this processor's choice", "oneDNN", "torch's"])
def choice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who multiplies, wherever the tests run."""
    operation = torch.ops.mkldnn._linear_pointwise if torch._C._has_mkldnn else None
    if request.param == "oneDNN":
        if operation is None:
            pytest.skip("this torch has no oneDNN")
        monkeypatch.setattr(onednn, "operation", lambda: operation)
    elif request.param == "torch's":
        monkeypatch.setattr(onednn, "operation", lambda: None)
    return str(request.param)


def error(actual: Tensor, exact: Tensor) -> float:
    return float((actual.double() - exact).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_as_near_to_float64_as_torchs(
    shape: tuple[int, int, int], transposed: bool, biased: bool, choice: str
) -> None:
    rows, inner, columns = shape
    x = torch.randn(inner, rows).t() if transposed else torch.randn(rows, inner)
    weight = torch.randn(inner, columns).t() if transposed else torch.randn(columns, inner)
    bias = torch.randn(columns) if biased else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    # The order of the sum is free; every order errs by at most (inner + 1) eps |x| |w|, and mostly by its root.
    bound = float((x.double().abs() @ weight.double().abs().t()).max()) * inner**0.5 * torch.finfo(torch.float32).eps
    assert error(onednn.product(x, weight, bias), exact) <= max(4 * error(F.linear(x, weight, bias), exact), bound / 8)


@pytest.mark.usefixtures("choice")
def test_the_same_bits_at_any_address() -> None:
    x, weight = torch.randn(300, 512), torch.randn(512, 512)
    expected = onednn.product(x, weight)
    for offset in (1, 3, 16):
        elsewhere = torch.empty(x.numel() + offset)[offset:].view_as(x).copy_(x)
        assert torch.equal(onednn.product(elsewhere, weight), expected)


def test_values_that_are_not_finite_stay_so(choice: str) -> None:
    x, weight = torch.randn(256, 512), torch.randn(512, 512)
    x[3, 5], x[7, 2] = torch.nan, torch.inf
    result = onednn.product(x, weight)
    assert result[3].isnan().all()
    assert not result[7].isfinite().any()
    assert result[[i for i in range(256) if i not in (3, 7)]].isfinite().all()


def large_mlp(bias: bool = True) -> nn.Module:
    hidden = [nn.Linear(192, 256, bias), nn.LeakyReLU(0.2), nn.Linear(256, 224, bias), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(224, 1, bias))


@pytest.mark.parametrize("bias", [True, False])
def test_penalty_of_a_large_critic(bias: bool, choice: str) -> None:
    torch.manual_seed(0)
    critic, x = large_mlp(bias), torch.randn(96, 192)
    eager = value_and_gradients(critic, x, nullcontext())
    exact = value_and_gradients(copy.deepcopy(critic).double(), x.double(), nullcontext())
    ours = value_and_gradients(critic, x, exact_shortcut())
    assert_same(value_and_gradients(critic, x, in_eagers_order()), eager)
    for actual, theirs, wanted in zip(ours, eager, exact, strict=True):
        assert (actual is None) == (theirs is None)
        if actual is not None and theirs is not None and wanted is not None:
            rounding = 1e-6 * float(wanted.detach().abs().max())
            assert error(actual.detach(), wanted) <= max(4 * error(theirs.detach(), wanted), rounding)
    if choice == "torch's":
        assert_same(ours, eager)


def test_oneDNN_is_what_multiplies_where_it_is_chosen(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if choice != "oneDNN":
        pytest.skip("the others are compared above")
    calls: list[int] = []
    operation = onednn.operation()

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        result: Tensor = operation(*args)
        return result

    monkeypatch.setattr(onednn, "operation", lambda: counted)
    critic, x = large_mlp(), torch.randn(96, 192)
    penalty = wgan_fast.gradient_penalty(critic, x, None, points="real")
    forward_and_input_gradient = len(calls)
    torch.autograd.grad(penalty, list(critic.parameters()), allow_unused=True)
    # Two large layers: each once forward, once back to the input, once for the tangent, once for the weight.
    assert (forward_and_input_gradient, len(calls)) == (4, 8)
    calls.clear()
    with linear.fast_linear(torch.device("cpu")):
        scores = critic(x.requires_grad_())
        torch.autograd.grad(scores.sum(), x)
    assert len(calls) == 4, "the gradients of the weights are not needed"


def test_derivatives_of_any_order(choice: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(96, 192), 0.1 * torch.randn(256, 192), torch.randn(256)

    def third(function: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        (first,) = torch.autograd.grad(function(*leaves).tanh().sum(), leaves[0], create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaves[1], create_graph=True)
        return list(torch.autograd.grad(second.square().sum(), leaves))

    with linear.fast_linear(torch.device("cpu")):
        ours = third(F.linear)
    for actual, expected in zip(ours, third(F.linear), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0.0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.randn(96, 192), torch.randn(256, 191), None),
        (torch.randn(96, 192), torch.randn(256, 192), torch.randn(255)),
        (torch.randn(96, 192), torch.randn(256, 192).double(), None),
    ],
)
def test_arguments_that_do_not_fit_are_torchs_to_refuse(arguments: tuple[Any, ...], choice: str) -> None:
    def message() -> str:
        with pytest.raises(RuntimeError) as caught:
            F.linear(*arguments)
        return str(caught.value)

    expected = message()
    with linear.fast_linear(torch.device("cpu")):
        assert message() == expected


def test_checkpointed_segments_and_transforms_are_left_to_torch(choice: str) -> None:
    network, x = large_mlp(), torch.randn(96, 192, requires_grad=True)
    parameters = list(network.parameters())
    expected = torch.autograd.grad(network(x).square().sum(), parameters)
    with linear.fast_linear(torch.device("cpu")):
        scores = checkpoint(network, x, use_reentrant=False)
        mapped = torch.func.vmap(network)(x.detach().expand(2, -1, -1))
        _, tangent = torch.func.jvp(network, (x.detach(),), (torch.ones_like(x),))
    actual = torch.autograd.grad(scores.square().sum(), parameters)  # computed again here, outside of the context
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(mapped[1], network(x))
    torch.testing.assert_close(tangent, torch.func.jvp(network, (x.detach(),), (torch.ones_like(x),))[1])


def test_the_choice_does_not_depend_on_torchs_defaults() -> None:
    expected = onednn.operation()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        onednn.operation.cache_clear()
        assert onednn.operation() is expected
    finally:
        torch.set_default_dtype(before)
        onednn.operation.cache_clear()
