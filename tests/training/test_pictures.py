"""The pictures hold what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wgan_fast.training.report import pictures


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_image_grid_enlarges_by_whole_pixels(tmp_path: Path) -> None:
    samples = torch.rand(5, 1, 8, 8) * 2 - 1
    pictures.write_image_grid(tmp_path / "a.png", samples, columns=3)
    pixels = _pixels(tmp_path / "a.png")
    side, gap = 56, pictures.GAP
    assert pixels.shape == (2 * (side + gap) + gap, 3 * (side + gap) + gap, 3)
    top, left = gap + (side + gap), gap + (side + gap)
    fifth = pixels[top : top + side, left : left + side]
    assert np.array_equal(fifth[::7, ::7, 0], ((samples[4, 0] + 1) * 127.5).round().byte().numpy())
    assert np.array_equal(fifth, fifth[::7, ::7].repeat(7, axis=0).repeat(7, axis=1))


def test_image_grid_keeps_colours_and_clamps(tmp_path: Path) -> None:
    sample = torch.tensor([2.0, -5.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 100, 100)
    pictures.write_image_grid(tmp_path / "a.png", sample)
    assert _pixels(tmp_path / "a.png")[50, 50].tolist() == [255, 0, 128]


@pytest.mark.parametrize("kind", ["gp", "clip", "nothing"])
def test_curves_draw_what_was_logged(tmp_path: Path, kind: str) -> None:
    records: list[dict[str, float]] = [{"iteration": i, "wasserstein_estimate": 1 / i} for i in range(1, 60)]
    if kind == "gp":
        records = [{**r, "penalty": 0.1, "gradient_norm": 1.0} for r in records]
    if kind == "nothing":
        records = []
    pictures.write_curves(tmp_path / "a.png", records)
    pixels = _pixels(tmp_path / "a.png")
    assert pixels.shape[1] == round(120 * 4.5 * {"gp": 3, "clip": 1, "nothing": 1}[kind])
    assert (pixels.std() > 5) == (kind != "nothing")


class Ramp(nn.Module):
    """A critic that rises to the right."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.slope * x[:, :1], None


def test_critic_is_drawn_the_right_way_round(tmp_path: Path) -> None:
    nowhere = torch.full((1, 2), 50.0)
    pictures.write_critic(tmp_path / "a.png", Ramp(), nowhere, nowhere)
    pixels = _pixels(tmp_path / "a.png").astype(int)
    row = pixels[pixels.shape[0] * 3 // 4]
    left, right = row[150], row[450]
    assert left[2] > left[0]  # viridis: low values are blue
    assert right[1] > left[1] + 60  # high ones green to yellow


def test_points_are_drawn(tmp_path: Path) -> None:
    pictures.write_points(tmp_path / "a.png", torch.randn(50, 2), torch.randn(50, 2))
    assert _pixels(tmp_path / "a.png").std() > 5
