"""The toy distributions have the moments that their papers' formulas give them."""

from __future__ import annotations

import pytest
import torch

from wgan_fast.training.data import points


def _draw(stream: points.PointStream, size: int = 20_000) -> torch.Tensor:
    return stream.batch(size, torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("stream", "count", "std", "largest"),
    [
        (points.eight_gaussians(), 8, 0.02 / 1.414, 2 / 1.414),
        (points.twenty_five_gaussians(), 25, 0.05 / 2.828, 4 / 2.828),
    ],
)
def test_mixtures_have_equal_modes_of_the_stated_spread(
    stream: points.PointStream, count: int, std: float, largest: float
) -> None:
    samples = _draw(stream)
    assert stream.modes is not None
    assert stream.modes.centers.shape == (count, 2)
    assert stream.modes.centers.abs().max().item() == pytest.approx(largest)
    distance, nearest = torch.cdist(samples, stream.modes.centers).min(dim=1)
    share = nearest.bincount(minlength=count) / len(samples)
    assert share.sub(1 / count).abs().max() < 0.01
    assert distance.square().mean().sqrt().item() == pytest.approx(std * 2**0.5, rel=0.03)


def test_swiss_roll_has_the_moments_of_scikit_learns() -> None:
    from sklearn.datasets import make_swiss_roll

    ours = _draw(points.swiss_roll())
    theirs = torch.from_numpy(make_swiss_roll(20_000, noise=0.25, random_state=0)[0][:, [0, 2]] / 7.5).float()
    assert torch.allclose(ours.mean(dim=0), theirs.mean(dim=0), atol=0.02)
    assert torch.allclose(ours.T.cov(), theirs.T.cov(), atol=0.02)
    radius = torch.stack([ours.norm(dim=1), theirs.norm(dim=1)]).quantile(torch.tensor([0.1, 0.5, 0.9]), dim=1)
    assert torch.allclose(radius[:, 0], radius[:, 1], atol=0.03)


def test_streams_repeat_with_their_seed_and_go_on_without_it() -> None:
    stream = points.eight_gaussians()
    random = torch.Generator().manual_seed(1)
    first, second = stream.batch(16, random), stream.batch(16, random)
    assert not torch.equal(first, second)
    assert torch.equal(first, stream.batch(16, torch.Generator().manual_seed(1)))
    assert first.dtype == torch.float32
