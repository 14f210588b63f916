"""Great circles between latents, and samples that depend on the latents alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wgan_fast.training import Config
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.models.sampling import draw_latent, generate, slerp


def test_slerp_walks_the_circle_at_constant_speed() -> None:
    start, end = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [-2.0, 0.0]])
    paths = slerp(start, end, 4)
    angles = torch.tensor([0, math.pi / 6, math.pi / 3, math.pi / 2])
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert torch.allclose(paths[0], circle, atol=1e-6)
    assert torch.allclose(paths[1], 2 * torch.stack([-angles.sin(), angles.cos()], dim=1), atol=1e-6)


def test_slerp_keeps_ends_and_norms_of_random_latents() -> None:
    start, end = torch.randn(50, 128, dtype=torch.float64), torch.randn(50, 128, dtype=torch.float64)
    paths = slerp(start, end, 9)
    assert torch.allclose(paths[:, 0], start)
    assert torch.allclose(paths[:, -1], end)
    norms, lines = paths.norm(dim=2), torch.lerp(start, end, 0.5).norm(dim=1)
    lowest = torch.minimum(start.norm(dim=1), end.norm(dim=1))
    assert (norms.amin(dim=1) > 0.9 * lowest).all()
    assert (lines < 0.9 * lowest).all()  # what the arc avoids


def test_slerp_of_parallel_opposite_and_zero_latents_is_finite() -> None:
    z = torch.randn(1, 5)
    assert torch.allclose(slerp(z, 2 * z, 3)[0, 1], 1.5 * z[0])
    assert torch.allclose(slerp(z, -z, 3)[0, 1], torch.zeros(5), atol=1e-6)
    assert slerp(z, torch.zeros(1, 5), 4).isfinite().all()
    assert torch.equal(slerp(z, z, 1)[0], z)


def test_generate_keeps_the_mode_and_does_not_depend_on_the_batch_size() -> None:
    generator = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    latent = draw_latent(10, 3, torch.Generator().manual_seed(1))
    assert torch.equal(latent, draw_latent(10, 3, torch.Generator().manual_seed(1)))
    whole = generate(generator, latent)
    assert torch.allclose(whole, generate(generator, latent, batch_size=3))
    assert generator.training
    assert not whole.requires_grad
    assert generator[1].num_batches_tracked == 0


@pytest.mark.parametrize("conditional", [False, True])
def test_paths_start_and_end_at_samples(conditional: bool) -> None:
    trainer = build_trainer(Config(data="digits", width=16, conditional=conditional))
    before = torch.get_rng_state()
    paths = trainer.interpolate(3, 5, labels=4 if conditional else None, seed=2)
    assert paths.shape == (3, 5, 1, 8, 8)
    ends = trainer.sample(6, labels=4 if conditional else None, seed=2)
    assert torch.allclose(paths[:, 0], ends[:3], atol=1e-6)
    assert torch.allclose(paths[:, -1], ends[3:], atol=1e-6)
    assert trainer.interpolate(2, 3).shape == (2, 3, 1, 8, 8)
    assert torch.equal(torch.get_rng_state(), before)
