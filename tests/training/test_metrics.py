"""Distances against closed forms and against what must hold for any distance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wgan_fast.training.data import points
from wgan_fast.training.report import metrics


class Identity(nn.Module):
    """Flattened pixels as features."""

    num_features = 3

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_wasserstein_1_of_a_shift_is_its_length() -> None:
    x = torch.randn(40, 2)
    assert metrics.wasserstein_1(x, x) == pytest.approx(0, abs=1e-9)
    assert metrics.wasserstein_1(x, x + torch.tensor([3.0, 4.0])) == pytest.approx(5, rel=1e-6)


def test_wasserstein_1_on_a_line_is_the_distance_of_sorted_values() -> None:
    x, y = torch.randn(64, 1), torch.randn(64, 1) * 2 + 1
    expected = (x.sort(dim=0).values - y.sort(dim=0).values).abs().mean().item()
    assert metrics.wasserstein_1(x, y) == pytest.approx(expected, rel=1e-5)


def test_wasserstein_1_takes_samples_of_different_sizes() -> None:
    assert metrics.wasserstein_1(torch.zeros(3, 2), torch.ones(5, 2)) == pytest.approx(math.sqrt(2))


def test_sliced_wasserstein_of_a_shift() -> None:
    x = torch.randn(100, 1, 3, 4)
    shift = 2.0
    distance = metrics.sliced_wasserstein(x, x + shift, projections=4000)
    assert distance == pytest.approx(shift, rel=0.05)  # E[<u, shift 1>²] = shift² · 12 / 12 for unit u in 12 dimensions
    assert metrics.sliced_wasserstein(x, x) == pytest.approx(0, abs=1e-9)
    assert metrics.sliced_wasserstein(x, x.roll(1), seed=1) == metrics.sliced_wasserstein(x, x.roll(1), seed=1)


def test_frechet_distance_of_gaussians_with_known_moments() -> None:
    x = torch.randn(3000, 3)
    x = (x - x.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    y = 2 * x + 1
    expected = 3 * 1.0 + 3 * (1 + 4 - 2 * 2)
    assert metrics.frechet_distance(Identity(), x, y, batch_size=999) == pytest.approx(expected, rel=1e-3)
    assert metrics.frechet_distance(Identity(), x, x) == pytest.approx(0, abs=1e-3)


def test_nearest_distance_is_the_median_of_the_nearest() -> None:
    reference = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    x = torch.tensor([[1.0, 0.0], [10.0, 2.0], [7.0, 0.0]])
    assert metrics.nearest_distance(x, reference) == pytest.approx(2)


def test_mode_coverage_counts_modes_with_a_fair_part_of_good_samples() -> None:
    stream = points.eight_gaussians()
    modes = stream.modes
    assert modes is not None
    everything = stream.batch(8000, torch.Generator().manual_seed(0))
    assert metrics.mode_coverage(everything, modes)[:2] == (8, 8)
    assert metrics.mode_coverage(everything, modes).high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.005)
    without_one = everything[(everything - modes.centers[3]).norm(dim=1) > 0.5]
    assert metrics.mode_coverage(without_one, modes).covered == 7
    fair = 80 / 8
    strays = torch.cat([modes.centers[:1].expand(80 - 2, 2), modes.centers[1:2].expand(2, 2)])
    assert metrics.COVERED_SHARE * fair > 2
    assert metrics.mode_coverage(strays, modes).covered == 1
    assert metrics.mode_coverage(torch.zeros(10, 2), modes) == (0, 8, 0.0)
