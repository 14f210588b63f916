"""More values than 32 bits count: an offset kept in 32 bits would wrap."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import wgan_fast

COUNT = (1 << 31) + 4099  # bf16: more than 4 GB


@pytest.fixture
def values(cuda: torch.device) -> Iterator[Tensor]:
    if torch.cuda.mem_get_info()[0] < 4 * 2 * COUNT:
        pytest.skip("the device has too little free memory")
    yield torch.zeros(COUNT, dtype=torch.bfloat16, device=cuda)
    torch.cuda.empty_cache()


def test_clip(values: Tensor, backend: str) -> None:
    values[-3:] = 5.0
    values[5] = -5.0
    wgan_fast.clip_weights_(values, 0.5, backend=backend)
    assert values[-3:].tolist() == [0.5, 0.5, 0.5]
    assert values[5].item() == -0.5
    assert values[(1 << 31) - 2 : (1 << 31) + 2].tolist() == [0.0] * 4


def test_interpolate(values: Tensor, backend: str) -> None:
    values[-1] = 4.0
    values[0] = 2.0
    alpha = torch.full((1,), 0.5, device=values.device)
    mixed = wgan_fast.interpolate(values.view(1, -1), torch.zeros_like(values).view(1, -1), alpha, backend=backend)
    assert mixed[0, -1].item() == 2.0
    assert mixed[0, 0].item() == 1.0
    assert mixed.count_nonzero().item() == 2


def test_penalty(values: Tensor, backend: str) -> None:
    values[0], values[-1] = 3.0, 4.0
    leaf = values.view(1, -1).requires_grad_()
    value, norms = wgan_fast.gradient_norm_penalty(leaf, return_norms=True, backend=backend)
    (slope,) = torch.autograd.grad(value, leaf)
    assert norms.tolist() == [5.0]
    assert value.item() == 16.0
    assert slope[0, 0].item() == pytest.approx(2 * 4 * 3 / 5, rel=0.01)
    assert slope[0, -1].item() == pytest.approx(2 * 4 * 4 / 5, rel=0.01)
    assert slope.count_nonzero().item() == 2
