"""norm_double_backward against autograd's own chain, in every dtype, layout and backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from norm_samples import NORMS, Norm, chain
from samples import DTYPES, assert_as_close_as, assert_same_bits
from torch import Tensor

from wgan_fast import reference
from wgan_fast.functional import norm_double_backward

WEIGHTED = [False, True]


def inputs(norm: Norm, dtype: torch.dtype, weighted: bool, weight_dtype: torch.dtype | None = None) -> list[Any]:
    """x, weight, g and v."""
    x, g, v = ((torch.randn(norm.shape) * scale + shift).to(dtype) for scale, shift in ((2, 1), (1, 0.5), (1, -0.5)))
    channels = torch.Size(norm.shape[1:]).numel() if norm.kind in ("layer", "rms") else norm.shape[1]
    return [x, torch.randn(channels).to(weight_dtype or dtype) if weighted else None, g, v]


def fused(norm: Norm, x: Tensor, weight: Tensor | None, g: Tensor, v: Tensor, **options: Any) -> list[Tensor]:
    results = norm_double_backward(x, *norm.statistics(x), weight, g, v, norm.groups, **options)
    assert (results[2] is None) == (weight is None)
    return [result for result in results if result is not None]


def magnitudes(x: Tensor, weight: Tensor | None, g: Tensor, v: Tensor, rstd: Tensor) -> list[float]:
    """What cancels on the way to the results."""
    r, size = float(rstd.max()), float(v.abs().max())
    w = 1.0 if weight is None else float(weight.abs().max())
    heights = [r * w * size, r * r * w * size * float(g.abs().max()) * 4, r * size * float(g.abs().sum()) / 8]
    return heights[: 2 + (weight is not None)]


@pytest.mark.usefixtures("guarded_allocations")
@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_as_close_to_fp64_as_autograds_chain(norm: Norm, dtype: torch.dtype, weighted: bool, backend: str) -> None:
    x, weight, g, v = inputs(norm, dtype, weighted)
    actual = fused(norm, x, weight, g, v, backend=backend)
    exact = chain(norm, *(None if t is None else t.double() for t in (x, weight, g, v)))
    yardstick = chain(norm, x, weight, g, v)
    heights = magnitudes(x, weight, g, v, norm.statistics(x)[1])
    assert [t.dtype for t in actual] == [dtype] * len(yardstick)
    for mine, theirs, true, height in zip(actual, yardstick, exact, heights, strict=True):
        # The chain's sums overflow in fp16 for long rows.
        usable = bool(theirs.isfinite().all())
        assert_as_close_as(mine, theirs if usable else true.to(dtype), true, magnitude=height)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", NORMS[1:14:4], ids=str)
def test_a_weight_in_fp32_beside_16_bit_values(norm: Norm, dtype: torch.dtype, backend: str) -> None:
    x, weight, g, v = inputs(norm, dtype, True, torch.float32)
    actual = fused(norm, x, weight, g, v, backend=backend)
    exact = chain(norm, x.double(), weight.double(), g.double(), v.double())
    assert [t.dtype for t in actual] == [dtype, dtype, torch.float32]
    for mine, true in zip(actual, exact, strict=True):
        assert (mine.double() - true).abs().max() <= 2 * torch.finfo(mine.dtype).eps * true.abs().max() + 1e-5


@pytest.mark.parametrize("norm", [Norm("group", (3, 6, 5, 4), 3), Norm("instance", (2, 4, 8, 8), 4)], ids=str)
@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed", "mixed"])
def test_any_layout_gives_the_values_of_contiguous_tensors_in_the_layout_of_x(
    norm: Norm, layout: str, backend: str
) -> None:
    x, weight, g, v = inputs(norm, torch.float32, True)
    expected = fused(norm, x, weight, g, v, backend=backend)

    def laid_out(t: Tensor) -> Tensor:
        if layout == "strided":
            return torch.stack([t, t + 1], -1)[..., 0]
        if layout == "transposed":
            return t.transpose(2, 3).contiguous().transpose(2, 3)
        return t.contiguous(memory_format=torch.channels_last)

    mine, other = laid_out(x), g if layout == "mixed" else laid_out(g)
    actual = norm_double_backward(mine, *norm.statistics(x), weight, other, laid_out(v), norm.groups, backend=backend)
    for result, wanted in zip(actual, expected, strict=True):
        if backend == "reference":  # its sums are taken in the order of memory
            torch.testing.assert_close(result, wanted)
        else:
            assert torch.equal(result, wanted)
    if backend != "reference":
        assert actual[0].stride() == actual[1].stride() == torch.empty_like(mine).stride()


@pytest.mark.parametrize(("norm"), [Norm("layer", (0, 5)), Norm("group", (0, 4, 3, 3), 2)], ids=str)
def test_no_samples_give_empty_gradients_and_no_weight_gradient(norm: Norm, backend: str) -> None:
    x, weight, g, v = inputs(norm, torch.float32, True)
    to_g, to_x, to_weight = fused(norm, x, weight, g, v, backend=backend)
    assert to_g.shape == to_x.shape == x.shape
    assert torch.equal(to_weight, torch.zeros_like(weight))


@pytest.mark.parametrize("norm", NORMS[1:15:3], ids=str)
def test_constant_rows_as_autograd_has_them(norm: Norm, backend: str) -> None:
    """The variance is 0 there: rstd is 1 / sqrt(eps), x̂ is 0."""
    x, weight, g, v = inputs(norm, torch.float64, True)
    x[0] = 3.0
    for mine, true in zip(fused(norm, x, weight, g, v, backend=backend), chain(norm, x, weight, g, v), strict=True):
        assert torch.allclose(mine, true, rtol=1e-9, atol=1e-9 * float(true.abs().max()))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["x", "g", "v", "weight"])
@pytest.mark.parametrize("norm", [Norm("layer", (4, 33)), Norm("group", (2, 4, 6, 6), 2), Norm("rms", (3, 8))], ids=str)
def test_nan_and_infinities_stay_in_the_rows_of_autograds(norm: Norm, where: str, value: float, backend: str) -> None:
    x, weight, g, v = inputs(norm, torch.float32, True)
    if where == "weight":
        weight[1] = value
    else:
        {"x": x, "g": g, "v": v}[where].view(-1)[2] = value
    for mine, theirs in zip(fused(norm, x, weight, g, v, backend=backend), chain(norm, x, weight, g, v), strict=True):
        # Row by row: within one, a sum in another order may give an infinity for a NaN.
        rows, others = (t.reshape(len(x), norm.groups, -1) if t.shape == x.shape else t for t in (mine, theirs))
        finite, expected = rows.isfinite(), others.isfinite()
        if rows.dim() == 3:
            assert torch.equal(finite.all(2), expected.all(2))
        assert not bool((finite & ~expected).any())
        both = finite & expected
        assert torch.allclose(rows[both], others[both], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS[2:15:4], ids=str)
def test_the_same_input_gives_the_same_bits_for_any_number_of_threads(norm: Norm, backend: str) -> None:
    big = norm._replace(shape=(64, *norm.shape[1:]))
    x, weight, g, v = inputs(big, torch.float32, True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = fused(big, x, weight, g, v, backend=backend)
        torch.set_num_threads(3)
        again = fused(big, x, weight, g, v, backend=backend)
    finally:
        torch.set_num_threads(threads)
    if backend != "reference":
        for a, b in zip(first, again, strict=True):
            assert_same_bits(a, b)
    assert torch.allclose(first[2], again[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [NORMS[1], NORMS[5], Norm("group", (2, 4, 3, 3), 2), NORMS[12]], ids=str)
def test_derivatives_of_the_results_are_right(norm: Norm) -> None:
    """With mean and rstd that have a graph."""
    x, weight, g, v = (t[:2].double().requires_grad_() for t in inputs(norm, torch.float64, True))
    weight = inputs(norm, torch.float64, True)[1].requires_grad_()

    def function(x: Tensor, weight: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return norm_double_backward(x, *norm.statistics(x), weight, g, v, norm.groups)

    assert torch.autograd.gradcheck(function, (x, weight, g, v))


def test_the_first_result_alone_needs_no_gradient_of_the_output(backend: str) -> None:
    from wgan_fast import ops

    norm = NORMS[3]
    x, weight, g, v = inputs(norm, torch.float32, True)
    statistics = norm.statistics(x)
    only = ops.norm_double_backward((x, *statistics, weight, None, v), 1, (True, False, False), backend)
    whole = norm_double_backward(x, *statistics, weight, g, v, backend=backend)
    assert only[1:] == (None, None)
    assert torch.equal(only[0], whole[0])


@pytest.mark.parametrize("needed", [(True, False, True), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("norm", [NORMS[3], NORMS[8], NORMS[13]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_needed_is_left_out(
    norm: Norm, dtype: torch.dtype, needed: tuple[bool, bool, bool], backend: str
) -> None:
    from wgan_fast import ops

    x, weight, g, v = inputs(norm, dtype, True)
    statistics = norm.statistics(x)
    whole = norm_double_backward(x, *statistics, weight, g, v, norm.groups, backend=backend)
    some = ops.norm_double_backward((x, *statistics, weight, g, v), norm.groups, needed, backend)
    for asked, mine, wanted in zip(needed, some, whole, strict=True):
        assert (mine is not None) == asked
        if mine is not None and wanted is not None:
            assert torch.equal(mine, wanted)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": 3}, TypeError, "x: expected a tensor, got int"),
        ({"x": torch.zeros(4, 6, dtype=torch.int64)}, TypeError, "x: expected float32, float64, bfloat16 or float16"),
        ({"x": torch.zeros(6)}, ValueError, r"x: expected shape \(B, C\) or \(B, C, ...\), got \(6,\)"),
        ({"grad_output": None}, TypeError, "grad_output: expected a tensor, got NoneType"),
        ({"grad_grad_input": torch.zeros(4, 5)}, ValueError, r"grad_grad_input: expected \(4, 6\) float32 on cpu"),
        ({"num_groups": 4}, ValueError, "num_groups=4: expected a divisor of the 6 channels of x"),
        ({"num_groups": 0}, ValueError, "num_groups=0: expected a divisor"),
        ({"rstd": None}, TypeError, "rstd: expected a tensor, got NoneType"),
        ({"mean": torch.zeros(5)}, ValueError, r"mean: expected 4 floating-point values on cpu, got \(5,\) float32"),
        ({"weight": torch.zeros(7)}, ValueError, "weight: expected 6 floating-point values on cpu"),
    ],
)
def test_a_bad_argument_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    tensors = {name: torch.ones(4, 6) for name in ("x", "grad_output", "grad_grad_input")}
    arguments: dict[str, Any] = {**tensors, "mean": torch.zeros(4), "rstd": torch.ones(4), "weight": torch.ones(6)}
    with pytest.raises(error, match=message):
        norm_double_backward(**{**arguments, **change})


@pytest.mark.parametrize("weighted", WEIGHTED)
def test_the_operator_of_torch_library_keeps_its_rules(weighted: bool) -> None:
    norm = Norm("group", (3, 6, 4, 4), 3)
    for dtype, layout in ((torch.float32, torch.contiguous_format), (torch.bfloat16, torch.channels_last)):
        x, weight, g, v = inputs(norm, dtype, weighted)
        x = x.contiguous(memory_format=layout)
        arguments = (x, *norm.statistics(x), weight, g, v, norm.groups, "auto")
        torch.library.opcheck(torch.ops.wgan_fast.norm_double_backward.default, arguments)


@pytest.mark.parametrize("norm", [NORMS[1], NORMS[5], NORMS[8]], ids=str)
@pytest.mark.parametrize("weighted", WEIGHTED)
def test_compiled_equals_eager(norm: Norm, weighted: bool) -> None:
    x, weight, g, v = inputs(norm, torch.float32, weighted)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *tensors: norm_double_backward(*tensors, norm.groups), fullgraph=True)
    actual = compiled(x, *norm.statistics(x), weight, g, v)
    for mine, theirs in zip(actual, fused(norm, x, weight, g, v), strict=False):
        assert torch.equal(mine, theirs)
    assert (actual[2] is None) == (weight is None)


def test_compiled_is_differentiable_as_eager_is() -> None:
    norm = Norm("group", (3, 4, 5), 2)
    x, weight, g, v = inputs(norm, torch.float32, True)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, g, v)]

    def compute(x: Tensor, weight: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return norm_double_backward(x, mean, rstd, weight, g, v, norm.groups)

    mean, rstd = norm.statistics(x.detach())
    torch._dynamo.reset()
    both = torch.compile(compute, fullgraph=True)(*leaves), compute(*leaves)
    torch.testing.assert_close(*both, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(sum(t.sum() for t in results if t is not None), leaves) for results in both]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_the_reference_agrees_with_the_formula_of_the_derivation() -> None:
    """One row in numbers: with x̂ of mean 0 and k as derived, by hand."""
    x = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    mean, rstd = torch.tensor([2.0]), torch.tensor([1.0])  # eps = 0
    g, v = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    results = reference.norm_double_backward(
        x, mean, rstd, None, g, v, num_groups=1, needed=(True, True, False)
    )  # c = 1, d = 1, m1 = 0.5, m2 = -0.5, e = 0: two values have no direction left, k = 0
    assert torch.equal(results[0], torch.zeros(1, 2, dtype=torch.float64))
    # -((v - 1)(-0.5) + (g - 0.5) + x̂ (0 - 0.5 + 1.5)) = -([0.5, -0.5] + [0.5, -0.5] + [-1, 1])
    assert torch.equal(results[1], torch.zeros(1, 2, dtype=torch.float64))
