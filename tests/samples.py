"""Inputs on which kernels go wrong, and comparisons that notice."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# Sizes around the widths of vectors, cache lines, serial thresholds and segments, and the empty tensor.
SIZES = [0, 1, 2, 3, 7, 15, 16, 17, 31, 63, 64, 65, 127, 1000, 4097, 32767, 32768, 40001, 100003]


def special_values(dtype: torch.dtype) -> Tensor:
    """NaN, infinities, both zeros, the smallest and largest numbers, and values around 0.01."""
    info = torch.finfo(dtype)
    values = [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, info.tiny, -info.tiny, info.max, info.min]
    values += [info.smallest_normal / 2, 0.01, -0.01, 0.0100001, -0.0100001, 0.0099, 1.0, -1.0]
    return torch.tensor(values, dtype=torch.float64).to(dtype)


def random_with_specials(size: int, dtype: torch.dtype, scale: float = 0.02) -> Tensor:
    """Normal values with special ones strewn in at random places."""
    values = (torch.randn(size, dtype=torch.float64) * scale).to(dtype)
    specials = special_values(dtype)
    if size:
        places = torch.randint(0, size, (max(1, size // 5),))
        values[places] = specials[torch.randint(0, len(specials), (len(places),))]
    return values


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal to the bit, -0.0 apart from 0.0; NaN equals NaN whatever its payload (torch itself changes payloads)."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    nan = torch.isnan(expected)
    assert torch.equal(torch.isnan(actual), nan)
    assert torch.equal(actual[~nan], expected[~nan])
    assert torch.equal(torch.signbit(actual[~nan]), torch.signbit(expected[~nan]))


def assert_as_close_as(actual: Tensor, yardstick: Tensor, exact: Tensor, magnitude: float = 0.0) -> None:
    """No further from ``exact`` (fp64) than twice what ``yardstick`` is, plus the rounding of a few steps.

    The tolerance comes from the data: ``yardstick`` is the textbook computation in the dtype under test. A single
    number can be exact by luck, and for fp64 the yardstick is ``exact`` itself: the last term, eight units in the
    last place of the largest entry or of ``magnitude`` (what cancelled on the way to the result), is for these.
    """
    finite = torch.isfinite(exact) & torch.isfinite(yardstick.double())
    assert torch.equal(torch.isnan(actual), torch.isnan(yardstick))
    scale = exact[finite].abs().max() if finite.any() else torch.tensor(1.0)
    allowed = 2 * (yardstick.double() - exact)[finite].abs().max() if finite.any() else torch.tensor(0.0)
    rounding = 8 * torch.finfo(actual.dtype).eps * scale.clamp(min=magnitude)
    error = (actual.double() - exact)[finite].abs().max() if finite.any() else torch.tensor(0.0)
    assert error <= allowed + rounding, f"error {error:.3g}, yardstick's {allowed / 2:.3g}, rounding {rounding:.3g}"
