"""What the benchmarks share: the comparison of results before anything is timed, and rows from times."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.common import Case, Provider, interleaved, rows_of, verify
from benchmarks.schema import OURS


def compare(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-3) -> None:
    ways = {OURS: ours, "textbook": theirs}
    providers = {name: Provider(timed=list, result=lambda found=found: found) for name, found in ways.items()}
    verify(Case(op="penalty", workload="any", bytes=0, providers=providers, tolerance=tolerance))


def test_a_value_on_the_other_side_of_a_kink_is_no_disagreement() -> None:
    ours = torch.ones(1_000_000)
    flipped = ours.clone()
    flipped[7] = 0.2
    compare([ours], [flipped])


def test_a_small_result_that_is_wrong_is_found_beside_a_large_one() -> None:
    ours = [torch.full((100,), 1.0), torch.tensor(0.5)]
    with pytest.raises(AssertionError, match="penalty any: textbook disagrees with wgan_fast"):
        compare(ours, [ours[0], torch.tensor(0.49)])


def test_a_result_that_cancels_to_rounding_agrees_with_zero() -> None:
    gradient = torch.ones(100)
    compare([gradient, torch.zeros(10)], [gradient, torch.full((10,), 1e-6)])
    with pytest.raises(AssertionError, match="disagrees"):
        compare([gradient, torch.zeros(10)], [gradient, torch.full((10,), 1e-4)])


@pytest.mark.parametrize(
    "wrong",
    [
        [torch.full((4,), math.nan)],
        [torch.ones(4, 1)],
        [torch.ones(1)],
        [torch.nextafter(torch.ones(4), torch.zeros(4))],
    ],
)
def test_nan_another_shape_and_the_last_bit_are_disagreements_without_tolerance(wrong: list[Tensor]) -> None:
    compare([torch.ones(4)], [torch.ones(4)], tolerance=0.0)
    with pytest.raises(AssertionError, match="disagrees"):
        compare([torch.ones(4)], wrong, tolerance=0.0)


def test_a_missing_result_is_a_disagreement() -> None:
    with pytest.raises(AssertionError, match="textbook gives 1 tensors, we 2"):
        compare([torch.ones(4), torch.ones(4)], [torch.ones(4)])


def test_rounds_time_every_provider_once_and_in_changing_order() -> None:
    called: list[str] = []

    def block(name: str) -> float:
        called.append(name)
        return float(len(called))

    times = interleaved({name: lambda name=name: block(name) for name in "abc"}, 20)
    rounds = ["".join(called[place : place + 3]) for place in range(0, 60, 3)]
    assert {"".join(sorted(order)) for order in rounds} == {"abc"}
    assert len(set(rounds)) > 1
    assert {len(samples) for samples in times.values()} == {20}


def test_rows_are_medians_in_microseconds_beside_ours_and_the_limit() -> None:
    times = {OURS: [1.0, 2.0, 3.0], "textbook": [4.0, 5.0, 6.0], "copy": [1.0, 1.0, 1.0]}
    ours, textbook = rows_of("op", "any", 8, times, {OURS: 1.0, "textbook": math.nan}, "a processor")
    assert (ours.median, ours.ratio, ours.fraction_of_limit) == pytest.approx((2e6, 1, 0.5))
    assert (textbook.median, textbook.ratio) == pytest.approx((5e6, 2.5))
    assert math.isnan(textbook.fraction_of_limit)
