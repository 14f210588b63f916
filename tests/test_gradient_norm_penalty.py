"""gradient_norm_penalty against the textbook lines: value, slope, zero norms, dtypes, determinism."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from samples import DTYPES, assert_as_close_as
from torch import Tensor

from wgan_fast import gradient_norm_penalty

SHAPES = [(1, 1), (256, 2), (5, 7), (3, 63), (3, 64), (3, 65), (64, 784), (2, 50_001), (1, 100_003)]
SHAPES += [(3, 3, 8, 8), (7, 3, 70, 60)]


def textbook(gradients: Tensor, target: float = 1.0, one_sided: bool = False, reduction: str = "mean") -> Tensor:
    excess = gradients.flatten(1).norm(2, dim=1) - target
    if one_sided:
        excess = excess.clamp(min=0)
    squared = excess**2
    return {"mean": squared.mean, "sum": squared.sum, "none": lambda: squared}[reduction]()


def value_and_slope(function: Any, gradients: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = gradients.detach().clone().requires_grad_()
    value = function(leaf, **options)
    value.sum().backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.usefixtures("guarded_allocations")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_value_and_slope_are_as_close_to_fp64_as_the_textbook(
    dtype: torch.dtype, shape: tuple[int, ...], reduction: str, backend: str
) -> None:
    gradients = (torch.randn(shape) / math.sqrt(math.prod(shape[1:]))).to(dtype)
    value, slope = value_and_slope(gradient_norm_penalty, gradients, reduction=reduction, backend=backend)
    exact_value, exact_slope = value_and_slope(textbook, gradients.double(), reduction=reduction)
    their_value, their_slope = value_and_slope(textbook, gradients, reduction=reduction)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert slope.dtype == dtype
    assert_as_close_as(value.to(dtype), their_value, exact_value, magnitude=1.0)
    assert_as_close_as(slope, their_slope, exact_slope, magnitude=0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("one_sided", [False, True])
def test_targets_and_one_sided(dtype: torch.dtype, target: float, one_sided: bool, backend: str) -> None:
    gradients = (torch.randn(40, 30) / 5).to(dtype)
    options = {"target": target, "one_sided": one_sided}
    value, slope = value_and_slope(gradient_norm_penalty, gradients, **options, backend=backend)
    exact_value, exact_slope = value_and_slope(textbook, gradients.double(), **options)
    their_value, their_slope = value_and_slope(textbook, gradients, **options)
    assert_as_close_as(value.to(dtype), their_value, exact_value, magnitude=1.0)
    assert_as_close_as(slope, their_slope, exact_slope, magnitude=0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_zero_gradient_has_a_finite_value_and_slope_zero(dtype: torch.dtype, target: float, backend: str) -> None:
    gradients = torch.randn(4, 90).to(dtype)
    gradients[1] = 0.0
    gradients[3] = -0.0
    value, slope = value_and_slope(gradient_norm_penalty, gradients, target=target, reduction="none", backend=backend)
    assert value[1] == target**2
    assert value[3] == target**2
    assert (slope[1] == 0).all()
    assert (slope[3] == 0).all()
    assert torch.isfinite(value).all()
    assert (slope[0] != 0).any()


def test_nan_and_infinity_show(backend: str) -> None:
    gradients = torch.randn(3, 90)
    gradients[0, 5] = torch.nan
    gradients[1, 5] = torch.inf
    value, slope = value_and_slope(gradient_norm_penalty, gradients, reduction="none", backend=backend)
    assert value[0].isnan()
    assert value[1].isinf()
    assert slope[0].isnan().all()
    assert torch.isfinite(value[2])
    assert torch.isfinite(slope[2]).all()


def test_half_gradients_whose_squares_overflow_their_dtype(backend: str) -> None:
    gradients = torch.full((2, 100), 1000.0, dtype=torch.float16)
    value, slope = value_and_slope(gradient_norm_penalty, gradients, reduction="none", backend=backend)
    assert torch.allclose(value, torch.full((2,), (1e4 - 1) ** 2))
    assert torch.allclose(slope.double(), torch.full((2, 100), 2 * (1e4 - 1) / 10, dtype=torch.float64), rtol=1e-3)


def test_empty_batches_and_empty_samples(backend: str) -> None:
    assert gradient_norm_penalty(torch.ones(0, 5), backend=backend).isnan()
    assert gradient_norm_penalty(torch.ones(0, 5), reduction="sum", backend=backend) == 0
    assert gradient_norm_penalty(torch.ones(0, 5), reduction="none", backend=backend).shape == (0,)
    assert gradient_norm_penalty(torch.ones(4, 0), backend=backend) == 1.0


@pytest.mark.parametrize("upstream", [1.0, 10.0, -0.5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_incoming_gradient_scales_the_slope(upstream: float, reduction: str, backend: str) -> None:
    gradients = torch.randn(6, 40, dtype=torch.float64)

    def ours(leaf: Tensor) -> Tensor:
        return upstream * gradient_norm_penalty(leaf, reduction=reduction, backend=backend)

    _, slope = value_and_slope(ours, gradients)
    _, expected = value_and_slope(lambda leaf: upstream * textbook(leaf, reduction=reduction), gradients)
    assert torch.allclose(slope, expected, rtol=1e-12, atol=1e-14)


def test_per_sample_weights_on_unreduced_values(backend: str) -> None:
    gradients, weights = torch.randn(6, 40, dtype=torch.float64), torch.randn(6, dtype=torch.float64)

    def weighted(function: Any, **options: Any) -> Any:
        return lambda leaf: (weights * function(leaf, reduction="none", **options)).sum()

    _, slope = value_and_slope(weighted(gradient_norm_penalty, backend=backend), gradients)
    _, expected = value_and_slope(weighted(textbook), gradients)
    assert torch.allclose(slope, expected, rtol=1e-12, atol=1e-14)


def test_the_weight_goes_inside(backend: str) -> None:
    gradients = torch.randn(6, 40, dtype=torch.float64)
    inside = value_and_slope(gradient_norm_penalty, gradients, weight=10.0, backend=backend)
    outside = value_and_slope(lambda leaf: 10.0 * textbook(leaf), gradients)
    for mine, theirs in zip(inside, outside, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12)


def test_backward_twice_through_a_kept_graph(backend: str) -> None:
    leaf = torch.randn(5, 8, requires_grad=True)
    value = gradient_norm_penalty(leaf, backend=backend)
    (first,) = torch.autograd.grad(value, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(3 * value, leaf)
    assert torch.allclose(3 * first, second)


@pytest.mark.parametrize("backend_name", ["auto", "reference"])
def test_gradcheck(backend_name: str) -> None:
    leaf = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: gradient_norm_penalty(g, backend=backend_name), leaf)


def test_a_third_derivative_is_a_sentence_and_the_reference_has_it() -> None:
    leaf = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(gradient_norm_penalty(leaf, backend="cpu"), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivative pass backend='reference'"):
        slope.sum().backward()
    assert torch.autograd.gradgradcheck(lambda g: gradient_norm_penalty(g, backend="reference"), leaf)


def test_norms_are_returned_detached(backend: str) -> None:
    leaf = torch.randn(5, 3, 4, requires_grad=True)
    value, norms = gradient_norm_penalty(leaf, return_norms=True, backend=backend)
    assert value.requires_grad
    assert not norms.requires_grad
    assert torch.allclose(norms, leaf.detach().flatten(1).norm(dim=1))


def test_channel_norms(backend: str) -> None:
    gradients = torch.randn(3, 5, 6, 4, dtype=torch.float64)

    def per_position(leaf: Tensor) -> Tensor:
        return ((leaf.norm(2, dim=1) - 1) ** 2).mean()

    value, slope = value_and_slope(gradient_norm_penalty, gradients, norm="channel", backend=backend)
    expected_value, expected_slope = value_and_slope(per_position, gradients)
    assert torch.allclose(value, expected_value)
    assert torch.allclose(slope, expected_slope)
    unreduced, norms = gradient_norm_penalty(
        gradients, norm="channel", reduction="none", return_norms=True, backend=backend
    )
    assert unreduced.shape == norms.shape == (3, 6, 4)
    assert torch.allclose(norms, gradients.norm(dim=1))


def test_layouts(backend: str) -> None:
    gradients = torch.randn(4, 3, 6, 5)
    value, slope = value_and_slope(gradient_norm_penalty, gradients, backend=backend)
    views = [
        gradients.to(memory_format=torch.channels_last),
        gradients.transpose(0, 1).contiguous().transpose(0, 1),
        torch.stack([gradients, gradients], dim=-1)[..., 0],
    ]
    for view in views:
        leaf = view.requires_grad_()
        same = gradient_norm_penalty(leaf, backend=backend)
        (same_slope,) = torch.autograd.grad(same, leaf)
        assert torch.allclose(same, value, rtol=1e-6)
        assert torch.allclose(same_slope, slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 784), (2, 200_003), (5, 50_000)])
def test_the_same_bits_with_any_number_of_threads(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    gradients = torch.randn(shape).to(dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5, 2, 1):
            torch.set_num_threads(threads)
            results.append(value_and_slope(gradient_norm_penalty, gradients))
    finally:
        torch.set_num_threads(before)
    for value, slope in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(slope, results[0][1])


def test_torch_func_transforms() -> None:
    gradients = torch.randn(5, 8, dtype=torch.float64)
    expected = value_and_slope(textbook, gradients)[1]
    assert torch.allclose(torch.func.grad(gradient_norm_penalty)(gradients), expected)
    batched = torch.func.vmap(gradient_norm_penalty)(torch.stack([gradients, 2 * gradients]))
    assert torch.allclose(batched, torch.stack([textbook(gradients), textbook(2 * gradients)]))


@pytest.mark.parametrize(
    ("gradients", "options", "error", "message"),
    [
        (torch.ones(3), {}, ValueError, r"gradients: .*got \(3,\)"),
        (torch.ones(3, 2).int(), {}, TypeError, r"gradients: .*int32"),
        ([1.0], {}, TypeError, r"gradients: expected a tensor, got list"),
        (torch.ones(3, 2), {"target": -1.0}, ValueError, r"target=-1.0"),
        (torch.ones(3, 2), {"target": float("nan")}, ValueError, r"target=nan"),
        (torch.ones(3, 2), {"weight": float("inf")}, ValueError, r"weight=inf"),
        (torch.ones(3, 2), {"weight": "10"}, TypeError, r"weight='10': expected a number"),
        (torch.ones(3, 2), {"weight": torch.ones(3)}, TypeError, r"weight=tensor\(.*: expected a number"),
        (torch.ones(3, 2), {"weight": torch.ones((), requires_grad=True)}, TypeError, r"weight=.* without a gradient"),
        (torch.ones(3, 2), {"target": None}, TypeError, r"target=None: expected a number"),
        (torch.ones(3, 2), {"norm": "batch"}, ValueError, r"norm='batch'"),
        (torch.ones(3, 2), {"reduction": "max"}, ValueError, r"reduction='max'"),
    ],
)
def test_bad_input_is_named(gradients: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gradient_norm_penalty(gradients, **options)
