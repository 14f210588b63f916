"""Nothing on the way of a training step waits for the device: torch raises where something would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wgan_fast


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check(call: Callable[[], Any]) -> None:
    """Warm up, which may wait (compilation, the first allocation), then let no call wait."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    with waiting_is_an_error():
        for _ in range(3):
            call()


def dcgan(cuda: torch.device) -> nn.Module:
    layers = [nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 1)).to(cuda)


def test_the_check_can_fail(cuda: torch.device) -> None:
    value = torch.ones((), device=cuda)
    with pytest.raises(RuntimeError, match="synchroniz"):
        check(value.item)


def test_clip_after_its_addresses_have_changed(backend: str, cuda: torch.device) -> None:
    def call() -> None:
        tensors = [torch.randn(n, device=cuda) for n in (5, 4096, 100_003)]
        wgan_fast.clip_weights_(tensors, 0.01, backend=backend)

    check(call)


def test_interpolate_and_the_penalty(backend: str, cuda: torch.device) -> None:
    real, fake = torch.randn(2, 64, 3, 32, 32, device=cuda)
    check(lambda: wgan_fast.interpolate(real, fake, backend=backend))

    def penalty() -> None:
        leaf = real.clone().requires_grad_()
        wgan_fast.gradient_norm_penalty(leaf, weight=10.0, backend=backend).backward()

    check(penalty)


@pytest.mark.parametrize("points", ["mixed", "real", "fake", "dragan"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_gradient_penalty_forward_and_backward(
    points: Any, precision: torch.dtype | None, backend: str, cuda: torch.device
) -> None:
    critic = dcgan(cuda)
    stacked = torch.randn(3 * 16, 3, 32, 32, device=cuda)
    out = stacked[32:] if points in ("mixed", "dragan") else None
    scaler = torch.amp.GradScaler("cuda") if precision == torch.float16 else None
    parameters = list(critic.parameters())

    def call() -> tuple[Tensor | None, ...]:
        with torch.autocast("cuda", dtype=precision, enabled=precision is not None):
            penalty = wgan_fast.gradient_penalty(
                critic, stacked[:16], stacked[16:32], points=points, out=out, scaler=scaler, backend=backend
            )
        return torch.autograd.grad(penalty, parameters, allow_unused=True)

    check(call)


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_a_whole_critic_step(name: str, backend: str, cuda: torch.device) -> None:
    critic = dcgan(cuda)
    real, fake = torch.randn(2, 16, 3, 32, 32, device=cuda)
    optimizer = getattr(wgan_fast.optim, name)(critic.parameters(), lr=1e-4, clip_value=0.01, backend=backend)

    def call() -> None:
        optimizer.zero_grad()  # to None: every step finds its gradients elsewhere
        loss = critic(fake).mean() - critic(real).mean()
        loss = loss + wgan_fast.gradient_penalty(critic, real, fake, weight=10.0, backend=backend)
        loss.backward()
        optimizer.step()

    check(call)
