"""The measures of a critic, on critics whose answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wgan_fast.studies.ensemble import CriticEnsemble, jensen_shannon, read, wasserstein
from wgan_fast.studies.probes import dual_estimate, input_gradient_norms, lipschitz_constant
from wgan_fast.studies.toy_runs import ToyRun, watch, wide_modes
from wgan_fast.training.data.sets import load_data
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.report.metrics import mode_coverage


def test_linear_critic_has_the_norm_of_its_weights_everywhere() -> None:
    critic = nn.Linear(5, 1)
    real, fake = torch.randn(40, 5), torch.randn(30, 5)
    norm = critic.weight.norm().item()
    assert input_gradient_norms(critic, real).tolist() == pytest.approx([norm] * 40, rel=1e-5)
    assert lipschitz_constant(critic, real, fake) == pytest.approx(norm, rel=1e-5)
    expected = (critic(real).mean() - critic(fake).mean()).item()
    assert dual_estimate(critic, real, fake) == pytest.approx(expected, rel=1e-5)


class Peak(nn.Module):
    """-exp(-4 r²), r the distance from (0.7, 0.2): steepest on the circle r² = 1/8."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -((x - torch.tensor([0.7, 0.2])) ** 2).sum(1).mul(4).neg().exp()


def test_search_finds_a_slope_that_no_sample_has() -> None:
    real, fake = torch.randn(50, 2) * 2, torch.randn(50, 2) * 2
    steepest = 4 * 2 * (1 / 8) ** 0.5 * torch.tensor(-0.5).exp().item()
    start = input_gradient_norms(Peak(), torch.cat([real, fake])).max().item()
    found = lipschitz_constant(Peak(), real, fake)
    assert start < 0.999 * steepest
    assert 0.999 * steepest < found <= steepest * (1 + 1e-6)


def test_ensemble_members_are_independent_critics() -> None:
    critics = CriticEnsemble(3, 2, 8)
    x = torch.randn(3, 10, 2)
    scores = critics(x)
    assert scores.shape == (3, 10)
    changed = x.clone()
    changed[1] += 1
    assert torch.equal(critics(changed)[[0, 2]], scores[[0, 2]])
    assert not torch.equal(critics(changed)[1], scores[1])


def test_readings_are_derivatives_in_the_shift() -> None:
    critics = CriticEnsemble(2, 1, 16).double()
    real, fake = torch.randn(2, 20, 1).double(), torch.randn(2, 20, 1).double()
    step = 1e-6
    for divergence in (wasserstein, jensen_shannon):
        up, down = divergence(critics, real, fake + step), divergence(critics, real, fake - step)
        reading = read(divergence, critics, real, fake)
        assert reading.value.tolist() == divergence(critics, real, fake).tolist()
        assert reading.gradient.tolist() == pytest.approx(((up - down) / (2 * step)).tolist(), rel=1e-4)


def test_untrained_critic_reads_as_no_divergence() -> None:
    critics = CriticEnsemble(2, 1, 4)
    x = torch.randn(2, 30, 1)
    assert wasserstein(critics, x, x).abs().max() < 1e-6
    assert (jensen_shannon(critics, x, x) <= 1e-6).all()


@pytest.mark.parametrize("variant", ["spectral", "lipschitz", "gp"])
def test_watching_changes_nothing(variant: str) -> None:
    def weights(looks: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        run = ToyRun(4, looks=looks, width=8, batch=16)
        trainer = run.trainer(load_data("8gaussians"), 0, constraint=variant)
        seen = watch(trainer, lambda t: {"mean": t.critic(t.sample(8)).mean().item()})
        assert len(seen["mean"]) == len(seen["iteration"]) == looks + 1
        return [p.detach().clone() for p in (*trainer.generator.parameters(), *trainer.critic.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(4), strict=True))


def test_watching_a_run_that_diverges_repeats_the_last_look() -> None:
    run = ToyRun(4, looks=4, width=8, batch=16, learning_rate=1e30)
    calls: list[int] = []

    def look(trainer: Trainer) -> dict[str, float]:
        calls.append(trainer.iteration)
        return {"look": float(len(calls))}

    seen = watch(run.trainer(load_data("8gaussians"), 0, constraint="gp"), look)
    assert seen["diverged"] == 1
    assert len(seen["look"]) == 5
    assert seen["look"][-1] == len(calls)


@pytest.mark.parametrize(("name", "count"), [("8gaussians", 8), ("25gaussians", 25)])
def test_wide_modes_are_told_from_a_uniform_square(name: str, count: int) -> None:
    stream = wide_modes(name)
    assert stream.modes is not None
    random = torch.Generator().manual_seed(0)
    assert mode_coverage(stream.batch(10_000, random), stream.modes).covered == count
    reach = stream.modes.centers.abs().max()
    square = (2 * torch.rand(10_000, 2, generator=random) - 1) * (reach + 0.2)
    assert mode_coverage(square, stream.modes).covered == 0
