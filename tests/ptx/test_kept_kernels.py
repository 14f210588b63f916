"""A kernel that is kept serves later calls with other numbers: round ones first, then odd ones, in one process."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from operation_memory import apart
from samples import DTYPES, assert_as_close_as, assert_same_bits
from torch import Tensor

from wgan_fast import functional, reference

ROUND_THEN_ODD = [64, 62, 63, 1]


@pytest.fixture(params=["triton", "cuda"])
def launchers(request: pytest.FixtureRequest) -> ModuleType:
    """The launchers of either backend, over the interpreter."""
    return request.getfixturevalue(f"{request.param}_on_host")  # type: ignore[no-any-return]


@pytest.fixture(params=["triton", "cuda"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of either, served by the interpreter."""
    request.getfixturevalue(f"{request.param}_on_host")
    return str(request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [784, 33])
def test_interpolate(dtype: torch.dtype, columns: int, launchers: ModuleType) -> None:
    for batch in ROUND_THEN_ODD:
        real, fake = (apart(torch.randn(batch, columns).to(dtype)) for _ in range(2))
        alpha = apart(torch.rand(batch, dtype=reference.accumulation_dtype(dtype)))
        mixed = launchers.interpolate(real, fake, alpha)
        exact = reference.interpolate(real.double(), fake.double(), alpha.double())
        assert_as_close_as(mixed, reference.interpolate(real, fake, alpha), exact)


# Rows in registers, several rows per program, and rows that are split over programs.
@pytest.mark.parametrize(("columns", "batches"), [(784, ROUND_THEN_ODD), (16, ROUND_THEN_ODD), (17, ROUND_THEN_ODD)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_penalty(dtype: torch.dtype, columns: int, batches: list[int], reduction: str, launchers: ModuleType) -> None:
    for batch in batches:
        _check_penalty(torch.randn(batch, columns).to(dtype) / columns**0.5, reduction, launchers)


@pytest.mark.parametrize("dtype", DTYPES)
def test_penalty_of_split_rows(dtype: torch.dtype, launchers: ModuleType) -> None:
    for batch, columns in [(2, 32768), (2, 32762), (3, 20001), (1, 16400)]:
        _check_penalty(torch.randn(batch, columns).to(dtype) / columns**0.5, "mean", launchers)


def _check_penalty(gradients: Tensor, reduction: str, launchers: ModuleType) -> None:
    options: dict[str, Any] = {"target": 1.0, "one_sided": False, "weight": 10.0, "reduction": reduction}
    actual = launchers.gradient_norm_penalty(apart(gradients), **options, with_slope=True)
    exact = reference.gradient_norm_penalty(gradients.double(), **options, with_slope=True)
    theirs = reference.gradient_norm_penalty(gradients, **options, with_slope=True)
    for mine, yardstick, true in zip(actual, theirs, exact, strict=True):
        assert_as_close_as(mine, yardstick, true, magnitude=10.0)


# Rows in registers, several per program; rows that are split over programs; groups of channels.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [[(64, 512), (62, 512), (63, 510), (1, 509)], [(2, 16, 32), (3, 15, 31), (1, 3, 7)]])
def test_norm(dtype: torch.dtype, shapes: list[tuple[int, ...]], launchers: ModuleType) -> None:
    for shape in shapes:
        groups = 1 if len(shape) == 2 else shape[1] // 3 or 1
        _check_norm(shape, groups if shape[1] % groups == 0 else 1, dtype, launchers)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_split_rows(dtype: torch.dtype, launchers: ModuleType) -> None:
    for shape in [(4, 8192), (3, 8190), (2, 6001)]:
        _check_norm(shape, 1, dtype, launchers)


def _check_norm(shape: tuple[int, ...], groups: int, dtype: torch.dtype, launchers: ModuleType) -> None:
    x, g, v = (torch.randn(shape).to(dtype) for _ in range(3))
    wide = reference.accumulation_dtype(dtype)
    rows = x.to(wide).reshape(shape[0], groups, -1)
    mean, rstd, weight = rows.mean(2), (rows.var(2, unbiased=False) + 1e-2).rsqrt(), torch.randn(shape[1], dtype=wide)
    options: dict[str, Any] = {"num_groups": groups, "needed": (True, True, True)}
    tensors = (x, mean, rstd, weight, g, v)
    actual = launchers.norm_double_backward(*map(apart, tensors), **options)
    exact = reference.norm_double_backward(*(t.double() for t in tensors), **options)
    theirs = reference.norm_double_backward(*tensors, **options)
    height = 4 * float(v.abs().max() * g.abs().max() * weight.abs().max())
    for mine, yardstick, true in zip(actual, theirs, exact, strict=True):
        assert_as_close_as(mine, yardstick, true, magnitude=height)


SIZES = [4096, 4095, 8192, 1, 4097]


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_weights(dtype: torch.dtype, launchers: ModuleType) -> None:
    for size in SIZES:
        weight = apart(torch.randn(size).to(dtype))
        expected = weight.clamp(-0.5, 0.5)
        assert launchers.clip_weights_([weight], -0.5, 0.5) == []
        assert_same_bits(weight, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["rmsprop_step_", "adam_step_"])
def test_optimizer_steps(dtype: torch.dtype, name: str, backend: str) -> None:
    step = getattr(functional, name)
    moments, optional = (1, 2) if name == "rmsprop_step_" else (2, 1)
    for size in SIZES:
        values = [torch.randn(size), torch.randn(size), *(torch.rand(size) for _ in range(moments))]

        def lists(dtype: torch.dtype, values: list[Tensor] = values) -> list[list[Tensor]]:
            return [*([apart(each.to(dtype))] for each in values), *([] for _ in range(optional)), [torch.tensor(3.0)]]

        actual, theirs = lists(dtype), lists(dtype)
        exact = [*([tensor.double() for tensor in tensors] for tensors in lists(dtype)[:-1]), [torch.tensor(3.0)]]
        for each, which in ((actual, backend), (theirs, "reference"), (exact, "reference")):
            step(*each, lr=1e-2, clip_value=0.5, backend=which)
        for mine, yardstick, true in zip(actual[:-1], theirs[:-1], exact[:-1], strict=True):
            for each in zip(mine, yardstick, true, strict=True):
                assert_as_close_as(*each, magnitude=1.0)


def test_step_counts_on_the_device(triton_on_host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """count_kernel, which a captured Adam launches: on the host every tensor says that it is on the CPU."""
    from wgan_fast.backends.triton import optimizer_step

    monkeypatch.setattr(optimizer_step, "on_device", lambda tensor: True)
    for count in ROUND_THEN_ODD:
        values = [[apart(torch.rand(5)) for _ in range(count)] for _ in range(4)]
        steps = [apart(torch.tensor(float(i))) for i in range(count)]
        expected = [[tensor.clone() for tensor in tensors] for tensors in (*values, steps)]
        functional.adam_step_(*values, [], steps, lr=1e-2, backend="triton")
        functional.adam_step_(*expected[:-1], [], expected[-1], lr=1e-2, backend="reference")
        assert torch.equal(torch.stack(steps), torch.stack(expected[-1]))
        for mine, theirs in zip(values[0], expected[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=1e-7)
