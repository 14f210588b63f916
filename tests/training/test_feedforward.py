"""The written-out gradients against autograd's, and which critics they are for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from wgan_fast.constraints import Constraint, GradientPenalty, WeightClipping
from wgan_fast.optim import Adam
from wgan_fast.training.models.pairs import build_models
from wgan_fast.training.step.feedforward import critic_gradients, plain_layers, written_out
from wgan_fast.training.step.steps import CriticStep, Descent, critic_step

BATCH = 6


def _perceptron() -> nn.Module:
    hidden = [nn.Linear(20, 33), nn.ReLU(), nn.Sequential(nn.Linear(33, 7, bias=False), nn.LeakyReLU(0.2))]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Identity(), nn.Linear(7, 1), nn.Flatten(0))


def _convolutions() -> nn.Module:
    first = [nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1, inplace=True), nn.Conv2d(8, 6, 3, dilation=2, groups=2)]
    return nn.Sequential(*first, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5), nn.ReLU(), nn.Linear(5, 1))


def _map() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3, bias=False))


def _sequences() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 9), nn.ReLU(), nn.Flatten(), nn.Linear(27, 1), nn.ReLU())


CRITICS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "one layer": (lambda: nn.Linear(20, 1), (20,)),
    "perceptron": (_perceptron, (4, 5)),
    "narrow": (lambda: build_models("mlp", (2,), 2, 16).critic, (2,)),
    "convolutions": (_convolutions, (3, 16, 16)),
    "map of scores": (_map, (3, 8, 8)),
    "sequences": (_sequences, (3, 20)),
    "dcgan": (lambda: build_models("dcgan", (3, 32, 32), 8, 4).critic, (3, 32, 32)),
}
CONDITIONAL = {
    "conditional perceptron": (lambda: build_models("mlp", (20,), 4, 16, num_classes=3).critic, (20,)),
    "conditional dcgan": (lambda: build_models("dcgan", (3, 32, 32), 8, 4, num_classes=3).critic, (3, 32, 32)),
}
PENALTIES = {
    "gp": GradientPenalty(10.0),
    "lp": GradientPenalty(5.0, target=0.5, one_sided=True),
    "dragan": GradientPenalty.dragan(),
}


class Generator(nn.Module):
    """Of samples like these; it ignores the classes."""

    def __init__(self, samples: Tensor) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, samples[0].numel()), nn.Unflatten(1, samples.shape[1:])).to(samples)

    def forward(self, latent: Tensor, *labels: Tensor) -> Tensor:
        return self.net(latent)


def _both(
    critic: nn.Module, samples: Tensor, constraint: GradientPenalty, **options: Any
) -> list[tuple[CriticStep, list[Tensor]]]:
    """One step by the written-out gradients, one by autograd, from the same state."""
    results = []
    generator = Generator(samples)
    for choose in (written_out, lambda *_: None):
        mine = copy.deepcopy(critic)
        torch.manual_seed(4)
        latent = torch.randn(len(samples), 4, dtype=samples.dtype)
        seen = critic_step(
            mine,
            generator,
            Adam(mine.parameters()),
            constraint,
            samples,
            latent,
            layers=choose(mine, constraint),
            **options,
        )
        results.append((seen, [p.grad for p in mine.parameters() if p.grad is not None]))
    return results


def _assert_equal(results: list[tuple[CriticStep, list[Tensor]]], rtol: float, atol: float) -> None:
    (seen, gradients), (expected_seen, expected) = results
    for mine, other in zip(seen, expected_seen, strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol)
    assert len(gradients) == len(expected)
    for mine, other in zip(gradients, expected, strict=True):
        assert mine.stride() == other.stride()
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", CRITICS)
def test_gradients_equal_autograds(name: str, penalty: str) -> None:
    make, shape = CRITICS[name]
    torch.manual_seed(0)
    critic = make().double()
    assert plain_layers(critic) is not None
    samples = torch.randn(BATCH, *shape, dtype=torch.float64)
    for p in critic.parameters():
        p.data += 0.1 * torch.randn_like(p)
    _assert_equal(_both(critic, samples, PENALTIES[penalty]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", CONDITIONAL)
def test_gradients_of_conditional_critics_equal_autograds(name: str, penalty: str) -> None:
    make, shape = CONDITIONAL[name]
    torch.manual_seed(0)
    critic = make().double()
    assert plain_layers(critic) is not None
    samples, labels = torch.randn(BATCH, *shape, dtype=torch.float64), torch.tensor([0, 2, 2, 1, 0, 2])
    for p in critic.parameters():
        p.data += 0.1 * torch.randn_like(p)
    _assert_equal(_both(critic, samples, PENALTIES[penalty], labels=labels), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("constraint", [GradientPenalty.r1(), GradientPenalty.r2(), GradientPenalty.r1r2()])
def test_penalties_at_scored_samples_are_left_to_one_pass(constraint: GradientPenalty) -> None:
    assert written_out(_perceptron(), constraint) is None


@pytest.mark.parametrize("loss", ["gan", "gan-minimax", "relativistic"])
@pytest.mark.parametrize("batch", [1, 5])
def test_other_losses_and_batches(loss: Any, batch: int) -> None:
    critic, samples = _perceptron().double(), torch.randn(batch, 4, 5, dtype=torch.float64)
    _assert_equal(_both(critic, samples, PENALTIES["gp"], loss_name=loss), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "dcgan"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_fp32_in_both_layouts(name: str, channels_last: bool) -> None:
    make, shape = CRITICS[name]
    critic, samples = make(), torch.randn(BATCH, *shape)
    if channels_last and len(shape) == 3:
        critic, samples = (t.to(memory_format=torch.channels_last) for t in (critic, samples))
    _assert_equal(_both(critic, samples, PENALTIES["gp"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["perceptron", "convolutions"])
def test_bf16_is_as_near_fp32_as_autocast_is(name: str) -> None:
    make, shape = CRITICS[name]
    torch.manual_seed(0)
    critic, samples = make(), torch.randn(64, *shape)
    exact = _both(critic, samples, PENALTIES["gp"])[1][1]
    (_, mine), (_, autocast) = _both(critic, samples, PENALTIES["gp"], descent=Descent(torch.bfloat16))
    errors = [sum((g - e).square().sum().item() for g, e in zip(gs, exact, strict=True)) for gs in (mine, autocast)]
    assert 0 < errors[0] < 2 * errors[1]
    assert all(g.dtype == torch.float32 for g in mine)


def test_a_flat_critic_has_zero_slope() -> None:
    """‖g‖ = 0: the value is lambda, the gradient is finite."""
    critic = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    nn.init.zeros_(critic[2].weight)
    layers = plain_layers(critic)
    assert layers is not None
    seen, gradients = critic_gradients(layers, torch.randn(5, 3), torch.randn(5, 3), PENALTIES["gp"])
    assert seen.penalty is not None
    assert seen.penalty.item() == pytest.approx(10.0)
    assert all(g.isfinite().all() for g in gradients.values())


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def _hooked() -> nn.Module:
    critic = _perceptron()
    critic[1].register_forward_hook(lambda *_: None)
    return critic


def _shared() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


def _frozen() -> nn.Module:
    critic = _perceptron()
    critic[1].weight.requires_grad_(False)
    return critic


def _patched() -> nn.Module:
    critic = _perceptron()
    critic.forward = lambda x: x.flatten(1).sum(1)  # type: ignore[method-assign]
    return critic


NOT_PLAIN: dict[str, Any] = {
    "another module": lambda: nn.Sequential(nn.Linear(4, 4), Halved(), nn.Linear(4, 1)),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
    "smooth": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)),
    "spectral norm": lambda: nn.Sequential(spectral_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 1)),
    "reflection": lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")),
    "same padding": lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")),
    "no slope": lambda: nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.0), nn.Linear(4, 1)),
    "activation first": lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 1)),
    "batch flattened": lambda: nn.Sequential(nn.Flatten(0), nn.Linear(4, 1)),
    "nothing": lambda: nn.Sequential(nn.Flatten()),
    "bf16 weights": lambda: nn.Linear(4, 1).bfloat16(),
    "hooked": _hooked,
    "shared": _shared,
    "twice": lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2),
    "frozen": _frozen,
    "patched": _patched,
    "resnet": lambda: build_models("resnet", (3, 32, 32), 8, 4).critic,
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_other_critics_are_left_to_autograd(name: str) -> None:
    assert plain_layers(NOT_PLAIN[name]()) is None


def test_global_hooks_are_respected() -> None:
    critic = _perceptron()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert plain_layers(critic) is None
    finally:
        handle.remove()
    assert plain_layers(critic) is not None


def test_other_constraints_are_left_to_autograd() -> None:
    class Scaled(GradientPenalty):
        pass

    assert written_out(_perceptron(), GradientPenalty(10.0)) is not None
    for constraint in (Constraint(), WeightClipping(), Scaled(10.0)):
        assert written_out(_perceptron(), constraint) is None


def test_layers_with_a_penalty_scale_or_under_another_constraint_are_refused() -> None:
    critic, samples = _perceptron(), torch.randn(BATCH, 4, 5)
    generator = nn.Sequential(nn.Linear(4, 20), nn.Unflatten(1, (4, 5)))
    arguments: Any = (critic, generator, Adam(critic.parameters()))
    layers, latent = plain_layers(critic), torch.randn(BATCH, 4)
    with pytest.raises(ValueError, match="layers: expected None"):
        critic_step(*arguments, WeightClipping(), samples, latent, layers=layers)
    with pytest.raises(ValueError, match="layers: expected None"):
        critic_step(*arguments, GradientPenalty(), samples, latent, layers=layers, penalty_scale=torch.ones(()))


@pytest.mark.parametrize("name", ["gp", "dragan"])
def test_points_at_given_positions(name: str) -> None:
    """As several processes give them."""
    critic, samples = _perceptron().double(), torch.randn(BATCH, 4, 5, dtype=torch.float64)
    alpha = torch.rand(BATCH, dtype=torch.float64)
    _assert_equal(_both(critic, samples, PENALTIES[name], alpha=alpha), rtol=1e-9, atol=1e-11)
