"""The parity tests of every operation over the CUDA kernels as nvcc compiles them, under their own launchers."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import test_clip_weights
import torch
from parity import parity_tests
from samples import DTYPES, assert_same_bits, random_with_specials

globals().update(parity_tests())
# A clamp of tensors that overlap is a race, on purpose: in any order of the clamps the bits are the same.
# A bound of zero is ordered as by torch on CUDA, which the tests below know.
del globals()["test_every_size_has_the_loops_bits_of_clip_weights"]
del globals()["test_shared_tensors_and_overlapping_views_of_clip_weights"]


@pytest.fixture
def backend(cuda_on_host: ModuleType) -> str:
    """Shadows the fixture of the parity tests."""
    return "cuda"


def _bounds(clip_value: float | tuple[float, float]) -> tuple[float, float]:
    return clip_value if isinstance(clip_value, tuple) else (-clip_value, clip_value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip_value", [bound for bound in test_clip_weights.BOUNDS if 0.0 not in _bounds(bound)])
def test_every_size_has_the_loops_bits(dtype: torch.dtype, clip_value: float, backend: str) -> None:
    test_clip_weights.test_every_size_has_the_loops_bits(dtype, clip_value, backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip_value", [bound for bound in test_clip_weights.BOUNDS if 0.0 in _bounds(bound)])
def test_at_a_bound_of_zero_the_negative_zero_is_the_smaller_one(
    dtype: torch.dtype, clip_value: tuple[float, float], cuda_on_host: ModuleType
) -> None:
    lo, hi = clip_value
    weight = random_with_specials(5000, dtype)
    expected, negative = weight.clamp(lo, hi), torch.signbit(weight)
    if lo == 0:
        negative = negative & (math.copysign(1, lo) < 0)
    if hi == 0:
        negative = negative | (math.copysign(1, hi) < 0)
    expected = torch.where(expected == 0, torch.where(negative, -0.0, 0.0).to(dtype), expected)
    cuda_on_host.clip_weights_([weight], lo, hi)
    assert_same_bits(weight, expected)
