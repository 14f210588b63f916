"""Evaluation and its feature network: real data looks real, noise does not, and figures repeat."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from wgan_fast.training import UserError, load_data
from wgan_fast.training.data import images, points
from wgan_fast.training.data.sets import TensorData, split
from wgan_fast.training.report import features
from wgan_fast.training.report.evaluation import Evaluation, evaluate
from wgan_fast.training.report.features import feature_network


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def digits() -> TensorData:
    data = load_data("digits")
    assert isinstance(data, TensorData)
    return data


def _figures(evaluation: Evaluation) -> dict[str, tuple[float | str, float | str]]:
    return {f.name: (f.generated, f.held_out) for f in evaluation.figures}


def test_digits_tell_real_from_noise(digits: TensorData) -> None:
    real = _figures(evaluate(lambda n: digits.training(n, torch.Generator().manual_seed(5)), digits))
    noise = _figures(evaluate(lambda n: torch.rand(n, 1, 8, 8) * 2 - 1, digits))
    for name in ("Fréchet distance", "sliced Wasserstein distance", "distance to nearest training sample"):
        assert real[name][1] == noise[name][1]
        assert float(noise[name][0]) > 2 * float(noise[name][1])
        assert float(real[name][0]) < 1.2 * float(real[name][1])
    assert real["distance to nearest training sample"][0] == pytest.approx(0, abs=1e-3)
    assert real["classes among 500"] == ("10 of 10", "10 of 10")


def test_feature_network_learns_is_cached_and_leaves_the_random_state_alone(
    digits: TensorData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_rng_state()
    network = feature_network(digits)
    assert torch.equal(before, torch.get_rng_state())
    assert network.accuracy > 0.95
    assert network.task == "10 classes"
    (file,) = (cache / "wgan-fast" / "features").iterdir()
    monkeypatch.setattr(features, "_train", lambda *_: pytest.fail("trained again instead of read"))
    again = feature_network(digits)
    assert again.accuracy == network.accuracy
    x = digits.train_samples[:5]
    assert torch.equal(again(x), network(x))
    assert file.name.startswith("digits-")


def test_a_damaged_cache_is_replaced(digits: TensorData, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", 2)
    feature_network(digits)
    (file,) = (cache / "wgan-fast" / "features").iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:100])
    feature_network(digits)
    assert file.read_bytes() == good


def test_a_failed_write_leaves_nothing_in_the_cache(
    digits: TensorData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(features, "STEPS", 2)
    monkeypatch.setattr(os, "replace", failing)
    feature_network(digits)
    assert list((cache / "wgan-fast" / "features").iterdir()) == []


def test_data_without_labels_is_described_by_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CROPS", 256)
    monkeypatch.setattr(features, "STEPS", 60)
    data = load_data("photos", image_size=16)
    assert isinstance(data, TensorData)
    evaluation = evaluate(lambda n: data.batch(n, torch.Generator().manual_seed(2)), data)
    assert any("4 rotations" in note for note in evaluation.notes)
    assert [f.name for f in evaluation.figures] == [
        "Fréchet distance",
        "distance to nearest training sample",
        "sliced Wasserstein distance",
    ]


def test_oblong_images_are_turned_by_half_turns_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", 2)
    assert feature_network(split("oblong", torch.randn(20, 2, 6, 9))).task == "2 rotations"


def test_a_single_held_out_image_has_no_frechet_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", 2)
    evaluation = evaluate(lambda n: torch.zeros(n, 1, 4, 4), split("few", torch.rand(4, 1, 4, 4)))
    assert list(_figures(evaluation)) == ["distance to nearest training sample", "sliced Wasserstein distance"]
    assert "no Fréchet distance: it needs 2 held-out and 2 training samples" in evaluation.notes


def test_what_is_neither_points_nor_images_is_refused() -> None:
    with pytest.raises(UserError, match="sequences: only points and images held in memory can be evaluated"):
        evaluate(lambda n: torch.zeros(n, 3, 4), split("sequences", torch.rand(40, 3, 4)))


def test_eight_gaussians_have_exact_distance_and_modes() -> None:
    data = points.eight_gaussians()
    other = torch.Generator().manual_seed(9)
    real = _figures(evaluate(lambda n: data.batch(n, other), data))
    assert real["modes covered"] == ("8 of 8", "8 of 8")
    assert float(real["Wasserstein-1 distance (exact)"][0]) < 0.15
    one = _figures(evaluate(lambda n: torch.tensor([[2 / 1.414, 0.0]]).expand(n, 2), data))
    assert one["modes covered"] == ("1 of 8", "8 of 8")
    assert one["high-quality samples"][0] == 1
    assert float(one["Wasserstein-1 distance (exact)"][0]) > 1


def test_swiss_roll_has_no_modes() -> None:
    data = points.swiss_roll()
    figures = _figures(evaluate(lambda n: data.batch(n, torch.Generator().manual_seed(9)), data))
    assert list(figures) == ["Wasserstein-1 distance (exact)"]


def test_samples_that_are_not_finite_are_refused(digits: TensorData) -> None:
    with pytest.raises(UserError, match="NaN or infinite values: the training diverged"):
        evaluate(lambda n: torch.full((n, 1, 8, 8), torch.nan), digits)
