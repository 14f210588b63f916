"""Built-in pairs: shapes, the papers' sizes, and no mixing of samples in a critic that will be penalised."""

from __future__ import annotations

import pytest
import torch

from wgan_fast.training import UserError, build_models
from wgan_fast.training.models.pairs import Architecture, default_architecture, default_width
from wgan_fast.training.step.steps import has_batch_statistics


@pytest.mark.parametrize(
    ("architecture", "shape", "width"),
    [
        ("mlp", (2,), 32),
        ("mlp", (7,), 32),
        ("mlp", (1, 28, 28), 32),
        ("mlp", (3, 5, 6), 32),
        ("pyramid", (1, 28, 28), 16),
        ("pyramid", (5,), 16),
        ("conv8", (1, 8, 8), 4),
        ("dcgan", (3, 32, 32), 4),
        ("dcgan", (1, 64, 64), 4),
        ("resnet", (3, 32, 32), 8),
    ],
)
def test_shapes_ranges_and_independent_scores(architecture: Architecture, shape: tuple[int, ...], width: int) -> None:
    generator, critic = build_models(architecture, shape, 6, width)
    samples = generator(torch.randn(4, 6))
    assert samples.shape == (4, *shape)
    if len(shape) == 3:
        assert samples.abs().max() <= 1
    scores = critic(samples)
    assert scores.shape == (4,)
    assert not has_batch_statistics(critic)
    assert torch.allclose(critic(samples[1:2]), scores[1:2], atol=1e-5)
    scores.sum().backward()
    assert all(p.grad is not None for p in generator.parameters())


def test_dcgan_64_has_the_usual_critic() -> None:
    _, critic = build_models("dcgan", (3, 64, 64), 100, 64)
    shapes = [tuple(p.shape) for p in critic.parameters() if p.dim() == 4]
    assert shapes == [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]
    assert has_batch_statistics(build_models("dcgan", (3, 64, 64), 100, 64, "batch").critic)


def test_resnet_has_the_papers_sizes() -> None:
    generator, critic = build_models("resnet", (3, 32, 32), 128, 128)
    convolution, shortcut = 128 * 128 * 9 + 128, 128 * 128 + 128
    generator_block = 2 * convolution + 2 * 2 * 128 + shortcut
    to_image = 128 * 3 * 9 + 3
    expected = (128 * 2048 + 2048) + 3 * generator_block + 2 * 128 + to_image
    assert sum(p.numel() for p in generator.parameters()) == expected
    first = (3 * 128 * 9 + 128) + convolution + (3 * 128 + 128)
    down, plain = 2 * convolution + shortcut, 2 * convolution
    assert sum(p.numel() for p in critic.parameters()) == first + down + 2 * plain + 129


def test_defaults_follow_the_shape() -> None:
    assert default_architecture((2,)) == "mlp"
    assert default_architecture((1, 8, 8)) == "mlp"
    assert default_architecture((3, 64, 64)) == "dcgan"
    assert default_architecture((1, 28, 28)) == "pyramid"
    assert default_width("mlp") == 512
    assert default_width("dcgan") == 64


def test_mnist_critic_is_the_usual_one() -> None:
    _, critic = build_models("pyramid", (1, 28, 28), 100, 512)
    assert [tuple(p.shape) for p in critic.parameters() if p.dim() == 2] == [(512, 784), (256, 512), (1, 256)]


def test_pairs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"--architecture dcgan makes 32x32 or 64x64 images.*\(1, 8, 8\)"):
        build_models("dcgan", (1, 8, 8), 10, 8)
    with pytest.raises(UserError, match="--architecture conv8 makes 8x8 images"):
        build_models("conv8", (2,), 10, 8)
    with pytest.raises(UserError, match="--critic-norm batch exists only for --architecture dcgan"):
        build_models("mlp", (2,), 10, 8, "batch")
