"""What users of other implementations were bitten by, one test each; named after what it guards.

The ninth, a resumed run that equals the uninterrupted one bit for bit, is the trainer's: tests/training.
"""

from __future__ import annotations

import copy
import gc
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from critics import ZOO, build
from samples import assert_same_bits
from test_compat import caogang, cyclegan, pytorch_gan, tutorial
from torch import Tensor, nn

import wgan_fast
from wgan_fast.training.data.points import eight_gaussians, swiss_roll
from wgan_fast.training.report.metrics import wasserstein_1

TEXTBOOK: dict[str, Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]] = {
    "caogang": lambda critic, real, fake, alpha: caogang(critic, real, fake, alpha, 1.0),
    "PyTorch-GAN": pytorch_gan,
    "tutorials": tutorial,
    "CycleGAN": lambda critic, real, fake, alpha: cyclegan(critic, real, fake, alpha, "mixed", 1.0, 1.0)[0],
}


@pytest.mark.parametrize("formula", TEXTBOOK)
@pytest.mark.parametrize("name", ["dcgan", "resnet", "instancenorm", "pooled"])
def test_1_equal_to_each_textbook_formula_at_the_same_alpha(formula: str, name: str) -> None:
    """Wrong axis, alpha or reduction: caogang/wgan-gp#25 #27 #56, PyTorch-GAN#5 #20, Zeleni9/pytorch-wgan#40."""
    critic, real, _ = build(name)
    fake, alpha = real.flip(0) + 0.3, torch.rand(len(real), dtype=torch.float64)
    ours = wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha)
    textbook = TEXTBOOK[formula](critic, real, fake, alpha)
    torch.testing.assert_close(ours, textbook, rtol=1e-12, atol=0.0)
    parameters = list(critic.parameters())
    ours_gradients, textbook_gradients = (
        torch.autograd.grad(value, parameters, allow_unused=True) for value in (ours, textbook)
    )
    for a, b in zip(ours_gradients, textbook_gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0, None])
def test_2_a_linear_critic_has_the_norm_of_its_weight_at_every_alpha(alpha: float | None) -> None:
    critic = nn.Linear(7, 1).double()
    with torch.no_grad():
        critic.weight.mul_(5)
    given = None if alpha is None else torch.full((4,), alpha, dtype=torch.float64)
    real, fake = torch.randn(2, 4, 7, dtype=torch.float64)
    value, norms = wgan_fast.gradient_penalty(critic, real, fake, alpha=given, return_norms=True)
    norm = critic.weight.norm()
    torch.testing.assert_close(norms, norm.expand(4), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(value, (norm - 1) ** 2, rtol=1e-13, atol=0.0)


def test_3_a_constant_critic_has_a_finite_penalty_and_finite_gradients() -> None:
    """NaN at the zero gradient: keras-team/keras-io#910 #624, pytorch/pytorch#2534."""
    critic = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        critic[2].weight.zero_()
    value = wgan_fast.gradient_penalty(critic, torch.randn(5, 3), torch.randn(5, 3))
    value.backward()
    assert float(value) == 1.0
    for parameter in (critic[0].weight, critic[0].bias, critic[2].weight):
        assert parameter.grad is not None
        assert not bool(parameter.grad.any())


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet", "layernorm", "sequence"])
def test_4_the_penalty_of_a_batch_is_the_mean_of_the_singles(name: str) -> None:
    critic, real, _ = build(name)
    fake, alpha = real.flip(0) + 0.3, torch.rand(len(real), dtype=torch.float64)
    whole = wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha)
    singles = [
        wgan_fast.gradient_penalty(critic, real[i : i + 1], fake[i : i + 1], alpha=alpha[i : i + 1])
        for i in range(len(real))
    ]
    torch.testing.assert_close(whole, torch.stack(singles).mean(), rtol=1e-12, atol=0.0)


def test_5_images_equal_their_flattened_twins() -> None:
    """A norm over dim=1 of 4-D gradients is one per pixel, not per sample."""
    critic, real, _ = build("dcgan")
    fake, alpha = real.flip(0) + 0.3, torch.rand(len(real), dtype=torch.float64)
    flat = wgan_fast.gradient_penalty(
        lambda x: critic(x.view(real.shape)), real.flatten(1), fake.flatten(1), alpha=alpha
    )
    torch.testing.assert_close(wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha), flat, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("batch", [7, 3, 1])
def test_6_a_smaller_last_batch_needs_no_special_case(batch: int) -> None:
    """Keras-GAN#167: a batch size kept from the first batch."""
    critic, _, _ = build("mlp", torch.float32)
    critic_loop = [torch.randn(8, 6), torch.randn(batch, 6)]
    values = [
        wgan_fast.gradient_penalty(critic, real, torch.randn_like(real), return_norms=True) for real in critic_loop
    ]
    assert [len(norms) for _, norms in values] == [8, batch]
    assert all(bool(value.isfinite()) for value, _ in values)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size where Linux keeps it")
@pytest.mark.parametrize("shortcut", [True, False])
def test_7_memory_does_not_grow_over_200_steps(shortcut: bool) -> None:
    """caogang/wgan-gp#21, pytorch/pytorch#7343. A graph kept by each step would be 2 MB."""
    critic, _, _ = build("mlp", torch.float32)
    real, fake = torch.randn(2, 8192, 6)
    optimizer = torch.optim.Adam(critic.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss = critic(fake).mean() - critic(real).mean()
        (loss + wgan_fast.gradient_penalty(critic, real, fake, weight=10.0, exact_shortcut=shortcut)).backward()
        optimizer.step()

    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            step()
        before = resident_bytes()
        for _ in range(200):
            step()
        grown = resident_bytes() - before
    finally:
        gc.enable()
    assert grown < 64 * 2**20  # an eighth of what 200 graphs would take


def test_8_clipping_is_the_loop_bit_for_bit_and_leaves_buffers_alone() -> None:
    """NaN, -0.0, infinities, a shared parameter, a strided and a channels_last one, an empty one."""
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 6), nn.Linear(5, 6))
    critic[3].weight = critic[2].weight
    critic.to(memory_format=torch.channels_last)
    critic.empty = nn.Parameter(torch.empty(0, 3))
    critic.strided = nn.Parameter(torch.randn(6, 4).t()[:, ::2])
    with torch.no_grad():
        critic[2].weight.view(-1)[:6] = torch.tensor([math.nan, -0.0, math.inf, -math.inf, 0.01, -0.0100001])
        critic[1].running_mean.fill_(3.0)
    loop = copy.deepcopy(critic)
    for parameter in loop.parameters():
        parameter.data.clamp_(-0.01, 0.01)
    strides = [parameter.stride() for parameter in critic.parameters()]
    wgan_fast.clip_weights_(critic, 0.01)
    assert strides == [parameter.stride() for parameter in critic.parameters()]
    for ours, theirs in zip(critic.parameters(), loop.parameters(), strict=True):
        assert_same_bits(ours.detach(), theirs.detach())
    assert critic[3].weight is critic[2].weight
    for ours, theirs in zip(critic.buffers(), loop.buffers(), strict=True):
        assert torch.equal(ours, theirs)


LAMBDA = 10.0


def train_estimate(real: Tensor, fake: Tensor) -> float:
    """mean critic(real) - mean critic(fake) after training the critic alone."""
    torch.manual_seed(1)
    layers = [nn.Linear(real.shape[1], 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)]
    critic = nn.Sequential(*layers)
    optimizer = wgan_fast.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.9))
    steps = 700
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        paired = fake[torch.randperm(len(fake))]
        loss = critic(paired).mean() - critic(real).mean()
        loss = loss + wgan_fast.gradient_penalty(critic, real, paired, weight=LAMBDA)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(critic(real).mean() - critic(fake).mean())


@pytest.mark.parametrize("name", ["eight_gaussians", "swiss_roll"])
def test_10_the_dual_estimate_approaches_exact_optimal_transport(name: str) -> None:
    pytest.importorskip("ot", reason="the exact distance is POT's")
    generator = torch.Generator().manual_seed(0)
    stream = {"eight_gaussians": eight_gaussians, "swiss_roll": swiss_roll}[name]()
    real = stream.batch(256, generator)
    fake = 0.5 * torch.randn(256, 2, generator=generator)
    assert abs(train_estimate(real, fake) / wasserstein_1(real, fake) - 1) < 0.05


@pytest.mark.parametrize("theta", [0.7, -0.4])
def test_10_two_point_masses_have_the_estimate_that_theory_gives(theta: float) -> None:
    """W1 = |theta|. The penalised critic has the slope 1 + |theta| / (2 lambda): Petzka et al. 2018, section 3."""
    estimate = train_estimate(torch.zeros(64, 1), torch.full((64, 1), theta))
    assert abs(estimate / (abs(theta) * (1 + abs(theta) / (2 * LAMBDA))) - 1) < 0.01


def test_every_critic_of_the_zoo_has_the_same_penalty_with_and_without_the_short_cut() -> None:
    for name in ZOO:
        critic, real, args = build(name)
        outcomes = []
        for shortcut in (True, False):
            torch.manual_seed(2)
            twin = copy.deepcopy(critic)
            options = {"critic_args": args, "exact_shortcut": shortcut}
            if name.startswith("batchnorm"):
                twin.eval()
            value = wgan_fast.gradient_penalty(twin, real, real.flip(0) + 0.3, **options)
            outcomes.append([value, *torch.autograd.grad(value, list(twin.parameters()), allow_unused=True)])
        largest = max(float(each.detach().abs().max()) for each in outcomes[1] if each is not None)
        for ours, eager in zip(*outcomes, strict=True):
            assert (ours is None) == (eager is None), name
            if ours is not None:
                torch.testing.assert_close(ours, eager, rtol=1e-12, atol=1e-12 * largest)
