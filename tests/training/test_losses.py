"""The losses of both players against binary cross-entropy, and the gradients that tell them apart."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from wgan_fast.training.step.losses import critic_loss, generator_loss

REAL, FAKE = torch.tensor([0.3, -1.2, 2.0]).double(), torch.tensor([-0.4, 0.9]).double()


def test_the_wasserstein_losses_are_differences_of_means() -> None:
    assert critic_loss("wgan", REAL, FAKE) == FAKE.mean() - REAL.mean()
    assert generator_loss("wgan", FAKE) == -FAKE.mean()


def test_the_standard_losses_are_cross_entropies() -> None:
    ones, zeros = torch.ones_like(REAL), torch.zeros_like(FAKE)
    expected = F.binary_cross_entropy_with_logits(REAL, ones) + F.binary_cross_entropy_with_logits(FAKE, zeros)
    assert torch.allclose(critic_loss("gan", REAL, FAKE), expected)
    assert torch.equal(critic_loss("gan-minimax", REAL, FAKE), critic_loss("gan", REAL, FAKE))
    expected = F.binary_cross_entropy_with_logits(FAKE, torch.ones_like(FAKE))
    assert torch.allclose(generator_loss("gan", FAKE), expected)
    assert torch.allclose(generator_loss("gan-minimax", FAKE), torch.log(1 - torch.sigmoid(FAKE)).mean())


def test_an_undecided_critic_loses_2_log_2() -> None:
    assert critic_loss("gan", torch.zeros(4), torch.zeros(4)).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize(("name", "slope"), [("gan", -1.0), ("gan-minimax", 0.0), ("wgan", -1.0)])
def test_only_minimax_saturates_where_the_critic_is_sure(name: str, slope: float) -> None:
    score = torch.tensor([-200.0], requires_grad=True)
    generator_loss(name, score).backward()  # type: ignore[arg-type]
    assert score.grad is not None
    assert score.grad.item() == pytest.approx(slope)
