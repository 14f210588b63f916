"""activation_double_backward against autograd's own chain, in values, infinities, layouts and derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from samples import DTYPES, assert_as_close_as
from torch import Tensor

from wgan_fast.activation_table import ACTIVATIONS
from wgan_fast.functional import activation_double_backward


class Case(NamedTuple):
    function: Callable[[Tensor], Tensor]
    activation: str
    options: tuple[float, ...] = ()


CASES = {
    "silu": Case(F.silu, "silu"),
    "gelu": Case(F.gelu, "gelu"),
    "gelu_tanh": Case(partial(F.gelu, approximate="tanh"), "gelu_tanh"),
    "elu": Case(F.elu, "elu", (1.0, 1.0, 1.0)),
    "elu, alpha": Case(lambda x: F.elu(x, 0.7), "elu", (0.7, 1.0, 1.0)),
    "celu": Case(lambda x: F.celu(x, 0.25), "elu", (0.25, 1.0, 4.0)),
    "selu": Case(F.selu, "elu", (1.6732632423543772, 1.0507009873554805, 1.0)),
    "elu_result": Case(lambda x: F.elu_(x * 1, 0.7), "elu_result", (0.7, 1.0, 1.0)),
    "celu_result": Case(lambda x: torch.celu_(x * 1, 0.25), "elu_result", (0.25, 1.0, 4.0)),
    "softplus": Case(F.softplus, "softplus", (1.0, 20.0)),
    "softplus, beta": Case(lambda x: F.softplus(x, 2.5, 1.5), "softplus", (2.5, 1.5)),
    "tanh": Case(torch.tanh, "tanh_result"),
    "sigmoid": Case(torch.sigmoid, "sigmoid_result"),
    "mish": Case(F.mish, "mish"),
    "hardswish": Case(F.hardswish, "hardswish"),
    "softsign": Case(F.softsign, "softsign"),
    "logsigmoid": Case(F.logsigmoid, "logsigmoid"),
}
KINKS = [0.0, -0.0, 3.0, -3.0, 0.6, -0.6]  # of elu, hardswish, softplus(2.5, 1.5)
# At its kinks torch 2.7 and older give hardswish the slopes of the curve between them, 1.5 and -0.5.
COMPARED_AT_3 = torch.ops.aten.hardswish_backward(torch.ones(1), torch.full((1,), 3.0)).item() == 1.0
SIZES = [0, 1, 7, 8, 511, 512, 513, 4097, 40_001]


def is_of_result(case: Case) -> bool:
    return case.activation.endswith("_result")


def chain(case: Case, x: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What autograd's own chain gives: the saved tensor, and the gradients with respect to g and to what was saved.

    For a function that saves its output y, the second one is divided by the slope dy/dx, through which it goes on.
    """
    x, g = x.detach().clone().requires_grad_(), g.detach().clone().requires_grad_()
    y = case.function(x)
    (dx,) = torch.autograd.grad(y, x, g, create_graph=True)
    to_g, to_x = torch.autograd.grad(dx, [g, x], v)
    return (y if is_of_result(case) else x).detach(), to_g, to_x


def ours(case: Case, saved: Tensor, g: Tensor, v: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return activation_double_backward(saved, g, v, case.activation, case.options, backend=backend)


def through_the_slope(case: Case, saved: Tensor, to_saved: Tensor) -> Tensor:
    """The gradient with respect to x of one with respect to what was saved: y = φ(x) is differentiated once more."""
    if not is_of_result(case):
        return to_saved
    return activation_double_backward(saved, to_saved, to_saved, case.activation, case.options)[0]


def arguments(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(size, dtype=torch.float64) * 3
    x[: len(KINKS)] = torch.tensor(KINKS, dtype=torch.float64)[:size]
    x = x.to(dtype)
    if not COMPARED_AT_3:
        x[x.abs() == 3] = 2.0
    return x, torch.randn(size).to(dtype), torch.randn(size).to(dtype)


@pytest.mark.usefixtures("guarded_allocations")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_as_close_to_fp64_as_autograds_chain(name: str, dtype: torch.dtype, backend: str) -> None:
    case = CASES[name]
    for size in SIZES:
        x, g, v = arguments(size, dtype)
        saved, *yardsticks = chain(case, x, g, v)
        if is_of_result(case):  # y as it was saved is where the exact derivatives are to be taken
            exact = [t.double() for t in exact_of_result(case, saved, g, v)]
        else:
            exact = list(chain(case, x.double(), g.double(), v.double())[1:])
        actual = ours(case, saved, g, v, backend)
        for index, (result, yardstick) in enumerate(zip(actual, yardsticks, strict=True)):
            assert result.shape == x.shape
            assert result.dtype == dtype
            if index == 1 and is_of_result(case):
                yardstick = exact[1].to(dtype)  # autograd's is that of x
            usable = yardstick.isfinite()  # fp16 overflows in the chain of mish
            if size:
                # What the chain of fp64 is itself wrong by: terms of this size cancel in it.
                cancelled = 30.0 if dtype == torch.float64 else 0.0
                assert_as_close_as(result[usable], yardstick[usable], exact[index][usable], cancelled)


def exact_of_result(case: Case, y: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """From y, in fp64, by autograd through the slope written as a function of y."""
    y, g, v = (t.double() for t in (y, g, v))
    if case.activation == "tanh_result":
        return v * (1 - y * y), v * g * (-2 * y)
    if case.activation == "sigmoid_result":
        return v * y * (1 - y), v * g * (1 - 2 * y)
    alpha, scale, input_scale = case.options
    slope = torch.where(y > 0, scale, (y + alpha * scale) * input_scale)
    return v * slope, v * g * (y < 0) * input_scale


@pytest.mark.parametrize("name", CASES)
def test_a_saved_result_leads_to_the_same_gradient_of_the_input(name: str, backend: str) -> None:
    """The second result, carried through the slope where y was saved, is autograd's gradient with respect to x."""
    case = CASES[name]
    saved, to_g, to_x = chain(case, *(xgv := arguments(1000, torch.float64)))
    actual = ours(case, saved, *xgv[1:], backend)
    torch.testing.assert_close(actual[0], to_g, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(through_the_slope(case, saved, actual[1]), to_x, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_small_results_keep_their_relative_accuracy(name: str, backend: str) -> None:
    """Far from 0 a derivative may be tiny; it is not lost in rounding against 1."""
    case = CASES[name]
    if is_of_result(case):
        pytest.skip("y itself has lost it")
    x = torch.linspace(-6, 6, 4001)  # beyond, the chain of fp64 has lost it as well
    one = torch.ones_like(x)
    _, *exact = chain(case, x.double(), one.double(), one.double())
    for result, wanted in zip(ours(case, x, one, one, backend), exact, strict=True):
        far = (x.abs() > 4) & (wanted != 0)
        relative = (result.double() - wanted)[far] / wanted[far]
        assert relative.numel() == 0 or relative.abs().max() < 1e-5


# ------------------------------------------------------------------------------------------- infinities and NaN


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_finite_for_every_finite_input(name: str, dtype: torch.dtype, backend: str) -> None:
    """Where the chain of autograd is NaN (gelu at 1e20, mish at 100 in fp32), the limit."""
    case = CASES[name]
    info = torch.finfo(dtype)
    large = torch.tensor([50.0, 90.0, 104.0, 700.0, 800.0, 6e4, info.max**0.34, info.max**0.5, info.max], dtype=dtype)
    x = torch.cat([large, -large, torch.tensor([info.tiny, -info.tiny, info.smallest_normal / 4], dtype=dtype)])
    one = torch.ones_like(x)
    saved = case.function(x) if is_of_result(case) else x
    to_g, to_saved = ours(case, saved, one, one, backend)
    assert to_g.isfinite().all()
    assert to_saved.isfinite().all()
    if not is_of_result(case) and name != "softsign":
        farthest = [len(large) - 1, 2 * len(large) - 1]
        assert (to_saved[farthest] == 0).all()
        scale = case.options[1] if case.activation == "elu" else 1.0
        assert set(to_g[farthest].tolist()) <= {0.0, 1.0, torch.tensor(scale, dtype=dtype).item()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_infinities_go_where_autograd_sends_them(name: str, dtype: torch.dtype, backend: str) -> None:
    case = CASES[name]
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([inf, -inf, 1.0, -1.0, 1.0, -1.0, 1.0, 2.0, 0.5], dtype=dtype)
    g = torch.tensor([1.0, 1.0, inf, -inf, nan, 1.0, 1.0, 0.0, inf], dtype=dtype)
    v = torch.tensor([1.0, 1.0, 1.0, 2.0, 1.0, nan, -inf, inf, 0.0], dtype=dtype)
    saved, *expected = chain(case, x, g, v)
    to_g, to_saved = ours(case, saved, g, v, backend)
    for result, of_chain in zip((to_g, through_the_slope(case, saved, to_saved)), expected, strict=True):
        assert torch.equal(result.isfinite(), of_chain.isfinite())
        kept = ~of_chain.isnan()
        torch.testing.assert_close(result[kept], of_chain[kept], rtol=1e-5, atol=1e-6)
    if not is_of_result(case):
        assert to_saved[[0, 1]].isnan().tolist() == expected[1][[0, 1]].isnan().tolist()  # x infinite: exactly as there


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_a_nan_stays_a_nan(name: str, dtype: torch.dtype, backend: str) -> None:
    """torch's own kernels lose it for elu and hardswish in some sizes; a derivative that is constant may lose it."""
    case = CASES[name]
    x = torch.full((40,), torch.nan, dtype=dtype)
    to_g, to_saved = ours(case, x, torch.ones_like(x), torch.ones_like(x), backend)
    assert to_g.isnan().all()
    if case.activation not in ("hardswish", "elu_result"):
        assert to_saved.isnan().all()


# ------------------------------------------------------------------------------------------------------ layouts


def layouts() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    def images() -> Tensor:
        return torch.randn(2, 3, 6, 5)

    last = {"memory_format": torch.channels_last}
    yield images().to(**last), images().to(**last), images().to(**last)
    yield images().to(**last), images(), images().to(**last)
    yield images(), images().to(**last), images()
    yield torch.randn(2, 3, 6, 10)[..., ::2], images(), images()
    yield images(), torch.randn(6, 5).expand(2, 3, 6, 5), torch.randn(()).expand(2, 3, 6, 5)
    yield torch.randn(1, 3, 1, 1).expand(2, 3, 6, 5), images(), images()
    yield images().transpose(0, 2), torch.randn(6, 3, 2, 5), torch.randn(6, 3, 2, 5)
    yield torch.randn(()), torch.randn(()), torch.randn(())


@pytest.mark.usefixtures("guarded_allocations")
def test_layouts(backend: str) -> None:
    for saved, g, v in layouts():
        expected = activation_double_backward(
            saved.contiguous(), g.contiguous(), v.contiguous(), "silu", backend=backend
        )
        actual = activation_double_backward(saved, g, v, "silu", backend=backend)
        for result, wanted in zip(actual, expected, strict=True):
            torch.testing.assert_close(result, wanted, rtol=1e-6, atol=1e-6)  # torch's sigmoid depends on the layout


def test_unaligned_memory_gives_the_same_bits(backend: str) -> None:
    for dtype in DTYPES:
        x, g, v = arguments(1000, dtype)
        expected = activation_double_backward(x, g, v, "gelu", backend=backend)
        moved = [torch.empty(1001, dtype=dtype)[1:].copy_(tensor) for tensor in (x, g, v)]
        for result, wanted in zip(activation_double_backward(*moved, "gelu", backend=backend), expected, strict=True):
            assert torch.equal(result, wanted)


def test_a_tensor_may_be_given_twice(backend: str) -> None:
    x = torch.randn(100)
    expected = activation_double_backward(x, x.clone(), x.clone(), "mish", backend=backend)
    for result, wanted in zip(activation_double_backward(x, x, x, "mish", backend=backend), expected, strict=True):
        assert torch.equal(result, wanted)


# -------------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("name", CASES)
def test_it_is_differentiable_itself(name: str, backend: str) -> None:
    case = CASES[name]
    x = torch.tensor([-2.5, -0.7, -0.2, 0.3, 0.9, 2.5], dtype=torch.float64)
    saved = (case.function(x) if is_of_result(case) else x).requires_grad_()
    g, v = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(partial(ours, case, backend=backend), (saved, g, v))
    assert torch.autograd.gradgradcheck(partial(ours, case, backend=backend), (saved, g, v))


# ---------------------------------------------------------------------------------------------------- contract

ONES = torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1.0, ONES, ONES, "silu"), TypeError, r"^saved: expected a tensor, got float$"),
        ((ONES.int(), ONES, ONES, "silu"), TypeError, r"^saved: expected float32, .* got torch.int32$"),
        ((ONES, None, ONES, "silu"), TypeError, r"^grad_output: expected a tensor, got NoneType$"),
        ((ONES, ONES, torch.ones(4), "silu"), ValueError, r"^grad_grad_input: expected \(3,\) .*got \(4,\)"),
        ((ONES, ONES.double(), ONES, "silu"), ValueError, r"^grad_output: expected .*float32.*got .*float64"),
        ((ONES, ONES, ONES, "relu"), ValueError, r"^activation='relu': expected one of silu, gelu, "),
        ((ONES, ONES, ONES, "elu", (1.0,)), ValueError, r"\(alpha, scale, input_scale\) for elu$"),
        ((ONES, ONES, ONES, "silu", (1.0,)), ValueError, r"^options=\(1.0,\): expected none for silu$"),
        ((ONES, ONES, ONES, "softplus", (1.0, torch.inf)), ValueError, r"^options=\(1.0, inf\): expected finite"),
    ],
)
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        activation_double_backward(*arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_every_activation_of_the_table_has_a_case() -> None:
    assert {case.activation for case in CASES.values()} == set(ACTIVATIONS)
