"""``loss.backward()`` leaves out the gradient at points that no caller sees, and nothing that anybody reads."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import wgan_fast
from wgan_fast.double_backward import exact_shortcut
from wgan_fast.double_backward.flops import count_flops


def perceptron(*between: nn.Module) -> nn.Sequential:
    hidden = [module for _ in range(2) for module in (nn.Linear(192, 192), *copy.deepcopy(between))]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(192, 1))


def convolutions(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *between, nn.Conv2d(8, 1, 8))


# All large enough not to be left to autograd.
CRITICS: dict[str, Callable[[], nn.Sequential]] = {
    "relu": lambda: perceptron(nn.ReLU()),
    "layernorm": lambda: perceptron(nn.LayerNorm(192), nn.ReLU()),
    "silu": lambda: perceptron(nn.SiLU()),
    "convolutions": lambda: convolutions(nn.LeakyReLU(0.2)),
    "instancenorm": lambda: convolutions(nn.InstanceNorm2d(8), nn.LeakyReLU(0.2)),
    "convolutions_silu": lambda: convolutions(nn.SiLU()),
}


def own_forward(critic: nn.Module, x: Tensor, backend: str = "auto") -> Tensor:
    return wgan_fast.gradient_penalty(critic, x, None, points="real", backend=backend)


def shared_scores(critic: nn.Module, x: Tensor) -> Tensor:
    penalty, scores = wgan_fast.r1_penalty(critic, x, return_scores=True)
    return penalty + nn.functional.softplus(-scores).mean()


def eager_own_forward(critic: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (g.flatten(1).norm(dim=1) - 1).square().mean()


def eager_shared_scores(critic: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    scores = critic(x)
    (g,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return g.square().flatten(1).sum(1).mean() + nn.functional.softplus(-scores).mean()


LOSSES = {"own_forward": (own_forward, eager_own_forward), "shared_scores": (shared_scores, eager_shared_scores)}


def made(name: str, batch: int = 256) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    return CRITICS[name]().double(), torch.randn(batch, 3, 8, 8, dtype=torch.float64)


def gradients_after_backward(critic: nn.Module, loss: Tensor) -> list[Tensor | None]:
    critic.zero_grad()
    loss.backward()
    return [None if p.grad is None else p.grad.clone() for p in critic.parameters()]


def assert_close(actual: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("losses", LOSSES)
def test_backward_costs_no_more_than_the_parameters_gradients(name: str, losses: str) -> None:
    critic, x = made(name)
    loss, eager = LOSSES[losses]
    parameters = list(critic.parameters())
    loss(critic, x)  # the first pass shows which critics are recorded
    asked_for = count_flops(lambda: torch.autograd.grad(loss(critic, x), parameters, allow_unused=True))
    assert count_flops(lambda: loss(critic, x).backward()) == asked_for
    assert count_flops(lambda: eager(critic, x).backward()) > asked_for


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("losses", LOSSES)
def test_backward_gives_the_parameters_eagers_gradients(name: str, losses: str) -> None:
    critic, x = made(name)
    loss, eager = LOSSES[losses]
    assert_close(gradients_after_backward(critic, loss(critic, x)), gradients_after_backward(critic, eager(critic, x)))


@pytest.mark.parametrize("name", CRITICS)
def test_an_input_that_requires_grad_has_its_gradient(name: str) -> None:
    critic, x = made(name)

    def input_gradient(penalised: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        leaf = x.clone().requires_grad_()
        scores, gradients = penalised(leaf)
        (scores.square().sum() + gradients.square().sum()).backward()
        assert leaf.grad is not None
        return leaf.grad

    def eager(leaf: Tensor) -> tuple[Tensor, Tensor]:
        scores = critic(leaf)
        return scores, torch.autograd.grad(scores.sum(), leaf, create_graph=True)[0]

    ours = input_gradient(lambda leaf: wgan_fast.score_and_gradient(critic, leaf))
    torch.testing.assert_close(ours, input_gradient(eager), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["layernorm", "convolutions_silu"])
def test_points_of_the_callers_own_have_their_gradient(name: str) -> None:
    critic, x = made(name)
    points = x.clone().requires_grad_()
    with exact_shortcut():
        scores = critic(points)
    (g,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    g.square().sum().backward()
    assert points.grad is not None
    assert bool(points.grad.any())


class Force(nn.Module):
    """Scores that are themselves a derivative with respect to a view of the input."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        (force,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return force.square().sum(1)


@pytest.mark.parametrize("losses", LOSSES)
def test_a_critic_may_differentiate_by_its_own_input(losses: str) -> None:
    energy, x = made("silu", batch=128)
    loss, eager = LOSSES[losses]
    critic = Force(energy)
    assert_close(gradients_after_backward(critic, loss(critic, x)), gradients_after_backward(critic, eager(critic, x)))


@pytest.mark.parametrize("name", ["layernorm", "instancenorm"])
@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("observed", ["first layer", "critic"])
def test_backward_hooks_of_modules_see_what_they_see_in_eager(name: str, losses: str, observed: str) -> None:
    critic, x = made(name)
    seen: list[Tensor] = []
    module = critic if observed == "critic" else critic[1 if name == "layernorm" else 0]
    module.register_full_backward_hook(lambda _, to_input, to_output: seen.append(to_input[0]))
    of_ours, of_eager = [], []
    for loss, found in zip(LOSSES[losses], (of_ours, of_eager), strict=True):
        seen.clear()
        loss(critic, x).backward()
        found += seen
    assert len(of_ours) == len(of_eager) > 0
    for ours, theirs in zip(of_ours, of_eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


class Hooked(nn.Module):
    """A critic with a hook on a view of its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x.register_hook(self.seen.append)
        scores: Tensor = self.inner(x)
        return scores


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("name", ["relu", "silu"])
def test_hooks_on_a_view_of_the_input_see_what_they_see_in_eager(name: str, losses: str) -> None:
    inner, x = made(name)
    critic = Hooked(inner)
    counts = []
    for loss in LOSSES[losses]:
        critic.seen.clear()
        loss(critic, x).backward()
        counts.append([bool(grad.any()) for grad in critic.seen])
    assert counts[0] == counts[1]
    assert len(counts[0]) > 1


@pytest.mark.parametrize("name", ["silu", "convolutions_silu"])
def test_derivatives_of_the_loss_can_be_differentiated(name: str) -> None:
    critic, x = made(name)
    parameters = list(critic.parameters())

    def second(loss: Tensor) -> list[Tensor | None]:
        first = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        critic.zero_grad()
        torch.stack([g.square().sum() for g in first if g is not None]).sum().backward()
        return [p.grad for p in parameters]

    assert_close(second(own_forward(critic, x, "reference")), second(eager_own_forward(critic, x)))
