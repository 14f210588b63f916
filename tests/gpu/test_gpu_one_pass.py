"""Scores and gradients of one pass on a GPU: equal to autograd in fp64, quick for the same critics, no more memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shared_critics import ALL, build_any
from test_one_pass import LOSSES, Loss, assert_equal, autograd, is_quick, softplus, value_and_gradients
from torch import Tensor, nn

from wgan_fast import score_and_gradient


def on(device: torch.device, name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor, tuple[Any, ...], bool]:
    critic, x, args, quick = build_any(name, dtype)
    return critic.to(device), x.to(device), tuple(arg.to(device) for arg in args), quick


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ALL)
def test_every_critic_and_every_loss_equal_autograd(name: str, loss: Loss, device: torch.device) -> None:
    critic, x, args, _ = on(device, name, torch.float64)
    ours = value_and_gradients(loss, score_and_gradient, critic, x, args)
    assert_equal(ours, value_and_gradients(loss, autograd, critic, x, args))


@pytest.mark.parametrize("name", ALL)
def test_the_same_critics_are_quick(name: str, device: torch.device) -> None:
    critic, x, args, quick = on(device, name, torch.float32)
    assert is_quick(score_and_gradient(critic, x, critic_args=args)[0]) == quick


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_errs_no_more_than_autograds_lines(dtype: torch.dtype, cuda: torch.device) -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)).to(cuda)
    x = torch.randn(128, 64, device=cuda)
    exact = value_and_gradients(softplus, autograd, critic.double(), x.double(), ())
    critic.float()

    def error(way: Callable[..., Any]) -> float:
        with torch.autocast("cuda", dtype):
            found = value_and_gradients(softplus, way, critic, x, ())
        return max(float((a.double() - b).norm() / b.norm().clamp_min(1e-3)) for a, b in zip(found, exact, strict=True))

    assert error(score_and_gradient) <= 2 * error(autograd) + 1e-6


def test_peak_memory_is_not_above_autograds(cuda: torch.device) -> None:
    critic = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1))
    critic.to(cuda)
    x = torch.randn(4096, 512, device=cuda)

    def peak(way: Callable[..., Any]) -> int:
        for _ in range(2):
            critic.zero_grad()
            torch.cuda.reset_peak_memory_stats()
            softplus(way, critic, x, ()).backward()
        return torch.cuda.max_memory_allocated()

    assert peak(score_and_gradient) <= 1.01 * peak(autograd)
