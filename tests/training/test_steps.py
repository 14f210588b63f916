"""One step of each player against the textbook's lines, and that nothing is computed which is not needed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wgan_fast import gradient_penalty
from wgan_fast.constraints import Constraint, GradientPenalty, WeightClipping
from wgan_fast.optim import Adam, RMSprop
from wgan_fast.training.step.steps import critic_step, generator_step, has_batch_statistics

BATCH, LATENT = 6, 3


class FixedAlpha(GradientPenalty):
    """The gradient penalty at given places between real and fake, so that it can be compared."""

    alpha = torch.linspace(0.1, 0.9, BATCH, dtype=torch.float64)

    def penalty(self, critic: Any, real: Tensor, fake: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return super().penalty(critic, real, fake, alpha=self.alpha, **options)


def _pair(critic_norm: bool = False, outputs: int = 1) -> tuple[nn.Module, nn.Module]:
    generator = nn.Sequential(nn.Linear(LATENT, 8), nn.ReLU(), nn.Linear(8, 5))
    norm = nn.BatchNorm1d(8) if critic_norm else nn.Identity()
    critic = nn.Sequential(nn.Linear(5, 8, bias=not critic_norm), norm, nn.LeakyReLU(0.2), nn.Linear(8, outputs))
    return generator.double(), critic.double()


def _textbook_critic_step(
    critic: nn.Module, generator: nn.Module, real: Tensor, latent: Tensor, clip: float | None
) -> tuple[float, float]:
    optimizer: torch.optim.Optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2, betas=(0.0, 0.9))
    if clip is not None:
        optimizer = torch.optim.RMSprop(critic.parameters(), lr=1e-2)
    fake = generator(latent).detach()
    estimate = critic(real).mean() - critic(fake).mean()
    loss = -estimate
    if clip is None:
        alpha = FixedAlpha.alpha[:, None]
        x = (alpha * real + (1 - alpha) * fake).requires_grad_()
        (gradients,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        loss = loss + 10 * ((gradients.norm(2, dim=1) - 1) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if clip is not None:
        for p in critic.parameters():
            p.data.clamp_(-clip, clip)
    return loss.item(), estimate.item()


def _optimizer(module: nn.Module, constraint: Constraint) -> torch.optim.Optimizer:
    if constraint.clip_value is not None:
        return RMSprop(module.parameters(), lr=1e-2, clip_value=constraint.clip_value)
    return Adam(module.parameters(), lr=1e-2, betas=(0.0, 0.9))


@pytest.mark.parametrize("constraint", [FixedAlpha(10.0), WeightClipping(0.05)], ids=["gp", "clip"])
@pytest.mark.parametrize("critic_norm", [False, True], ids=["plain", "batch norm"])
@pytest.mark.filterwarnings("ignore:.*[Bb]atch.*")
def test_critic_step_equals_the_textbook(constraint: Constraint, critic_norm: bool) -> None:
    generator, critic = _pair(critic_norm)
    reference = copy.deepcopy(critic)
    real, latent = torch.randn(BATCH, 5).double(), torch.randn(BATCH, LATENT).double()
    clip = constraint.clip_value
    assert clip is None or isinstance(clip, float)
    loss, estimate = _textbook_critic_step(reference, generator, real, latent, clip)
    assert has_batch_statistics(critic) == critic_norm
    seen = critic_step(
        critic, generator, _optimizer(critic, constraint), constraint, real, latent, joint=not critic_norm
    )
    assert seen.loss.item() == pytest.approx(loss)
    assert seen.wasserstein_estimate.item() == pytest.approx(estimate)
    assert (seen.penalty is None) == (clip is not None)
    for ours, theirs in zip(critic.state_dict().values(), reference.state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in generator.parameters())


def test_penalty_and_gradient_norm_are_reported() -> None:
    generator, critic = _pair()
    real, latent = torch.randn(BATCH, 5).double(), torch.randn(BATCH, LATENT).double()
    constraint = FixedAlpha(10.0)
    with torch.no_grad():
        expected, norms = gradient_penalty(
            critic, real, generator(latent), weight=10.0, alpha=constraint.alpha, return_norms=True
        )
    seen = critic_step(critic, generator, _optimizer(critic, constraint), constraint, real, latent)
    assert seen.penalty is not None
    assert seen.gradient_norm is not None
    assert seen.penalty.item() == pytest.approx(expected.item())
    assert seen.gradient_norm.item() == pytest.approx(norms.mean().item())
    assert seen.loss.item() == pytest.approx(expected.item() - seen.wasserstein_estimate.item())
    assert not any(t is not None and t.requires_grad for t in seen)


def test_generator_step_equals_the_textbook_and_leaves_the_critic_alone() -> None:
    generator, critic = _pair()
    reference = copy.deepcopy(generator)
    latent = torch.randn(BATCH, LATENT).double()
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-2)
    loss = -critic(reference(latent)).mean()
    loss.backward()
    optimizer.step()
    critic.zero_grad()
    before = copy.deepcopy(critic.state_dict())
    seen = generator_step(critic, generator, Adam(generator.parameters(), lr=1e-2), latent)
    assert seen.item() == pytest.approx(loss.item())
    assert not seen.requires_grad
    for ours, theirs in zip(generator.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9)
    assert all(p.grad is None for p in critic.parameters())
    assert all(torch.equal(a, b) for a, b in zip(critic.state_dict().values(), before.values(), strict=True))


def test_uneven_batches_and_unused_or_frozen_parameters() -> None:
    generator, critic = _pair()
    critic.unused = nn.Parameter(torch.ones(2).double())
    first = next(critic.parameters()).requires_grad_(False)
    frozen = first.clone()
    optimizer = RMSprop(critic.parameters(), lr=0.1, clip_value=1.0)
    real, latent = torch.randn(4, 5).double(), torch.randn(7, LATENT).double()
    with torch.no_grad():
        expected = critic(real).mean() - critic(generator(latent)).mean()
    seen = critic_step(critic, generator, optimizer, WeightClipping(1.0), real, latent)
    assert seen.wasserstein_estimate.item() == pytest.approx(expected.item())
    assert torch.equal(first, frozen)
    assert critic.unused.grad is None


class CountProducts(TorchDispatchMode):
    """Counts matrix products, the unit of work of a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


def test_steps_do_no_needless_work() -> None:
    """Two layers in each network: 2 products forward; backward 3, or 2 for the input alone."""
    generator, critic = _pair()
    real, latent = torch.randn(BATCH, 5).double(), torch.randn(BATCH, LATENT).double()
    constraint = WeightClipping(0.1)
    with CountProducts() as critic_work:
        critic_step(critic, generator, _optimizer(critic, constraint), constraint, real, latent)
    assert critic_work.products == 2 + 2 + 3  # generator forward; real and fake as one batch forward and backward
    with CountProducts() as generator_work:
        generator_step(critic, generator, Adam(generator.parameters()), latent)
    assert generator_work.products == 2 + 2 + 2 + 3  # forward both; critic's input gradient alone; generator's backward
