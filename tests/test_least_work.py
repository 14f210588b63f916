"""Which critics are too small for the shortcut and for one pass, and that they get the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from wgan_fast import gradient_penalty, r1_penalty
from wgan_fast.double_backward import least_work
from wgan_fast.double_backward.flops import count_flops


def perceptron(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


def test_the_work_of_a_perceptron_is_rows_times_parameters() -> None:
    critic, x = perceptron(7), torch.randn(5, 7)
    work = 5 * (7 * 7 + 7 + 7 + 1)
    assert least_work.reached(critic, [x], work)
    assert not least_work.reached(critic, [x], work + 1)


def test_each_position_of_a_sequence_is_a_row() -> None:
    critic, x = perceptron(7), torch.randn(5, 3, 7)
    assert least_work.reached(critic, [x], 15 * 64)
    assert not least_work.reached(critic, [x], 15 * 64 + 1)


def test_the_largest_of_several_inputs_counts() -> None:
    critic, x = perceptron(7), torch.randn(5, 7)
    assert least_work.reached(critic, [torch.randn(5, 1, 1), x], 5 * 64)


@pytest.mark.parametrize(
    "critic", [nn.Conv1d(1, 1, 3), nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1)), lambda x: x.sum(1)]
)
def test_convolutions_and_functions_are_not_judged(critic: nn.Module) -> None:
    assert least_work.reached(critic, [torch.randn(2, 2)], 1 << 60)


def test_samples_elsewhere_than_on_the_cpu_are_not_judged() -> None:
    assert least_work.reached(perceptron(4), [torch.empty(2, 4, device="meta")], 1 << 60)


def shared(critic: nn.Module, x: Tensor) -> list[Tensor]:
    penalty, scores = r1_penalty(critic, x, return_scores=True)
    return list(torch.autograd.grad(penalty + scores.square().mean(), list(critic.parameters())))


def own_pass(critic: nn.Module, x: Tensor) -> list[Tensor]:
    penalty = gradient_penalty(critic, x, None, points="real")
    return list(torch.autograd.grad(penalty, list(critic.parameters()), materialize_grads=True, allow_unused=True))


@pytest.mark.parametrize(("way", "threshold"), [(shared, "ONE_PASS"), (own_pass, "SHORTCUT")])
def test_a_critic_below_the_threshold_runs_as_autograd_has_it(
    way: Callable[[nn.Module, Tensor], list[Tensor]], threshold: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    critic, x = perceptron(16).double(), torch.randn(8, 16, dtype=torch.float64)

    def measured() -> tuple[list[Tensor], int]:
        return way(critic, x), count_flops(lambda: way(copy.deepcopy(critic), x))

    quick, quick_flops = measured()
    monkeypatch.setattr(least_work, threshold, 1 << 60)
    slow, slow_flops = measured()
    assert slow_flops > quick_flops
    for a, b in zip(slow, quick, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
