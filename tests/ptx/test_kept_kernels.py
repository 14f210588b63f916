"""A kernel that is kept serves later calls with other numbers: round ones first, then odd ones, in one process."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from operation_memory import apart
from samples import DTYPES, assert_as_close_as, assert_same_bits
from torch import Tensor

from wgan_fast import reference
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

ROUND_THEN_ODD = [64, 62, 63, 1]


@pytest.fixture(params=["triton", "cuda"])
def launchers(request: pytest.FixtureRequest) -> ModuleType:
    """The launchers of either backend, over the interpreter."""
    return request.getfixturevalue(f"{request.param}_on_host")  # type: ignore[no-any-return]


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
def test_optimizer_steps(dtype: torch.dtype, name: str, launchers: ModuleType) -> None:
    options: RMSpropOptions | AdamOptions = RMSpropOptions(1e-2, 0.99, 1e-8, 0.0, 0.0, False, -0.5, 0.5)
    if name == "adam_step_":
        options = AdamOptions(1e-2, 0.5, 0.9, 1e-8, 0.0, False, False, -0.5, 0.5)
    for size in SIZES:
        values = [torch.randn(size), torch.randn(size), torch.rand(size), torch.rand(size)]
        if name == "rmsprop_step_":
            del values[3]

        def lists(dtype: torch.dtype, values: list[Tensor] = values) -> list[list[Tensor]]:
            empty = [[], []] if name == "rmsprop_step_" else [[]]
            return [*([apart(each.to(dtype))] for each in values), *empty, [torch.tensor(3.0)]]

        actual, theirs, exact = lists(dtype), lists(dtype), [[t.double() for t in ts] for ts in lists(dtype)]
        assert getattr(launchers, name)(actual, options) == []
        for step in (theirs, exact):
            step[-1] = [torch.tensor(3.0)]
            getattr(reference, name)(step, options)
        for mine, yardstick, true in zip(actual[:-1], theirs[:-1], exact[:-1], strict=True):
            for each in zip(mine, yardstick, true, strict=True):
                assert_as_close_as(*each, magnitude=1.0)
