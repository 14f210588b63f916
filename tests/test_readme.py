"""The README's Python is run as it stands: pairs of before and after agree, and the rest runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import wgan_fast

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def small_critic() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 1))


def both(pair: list[str]) -> list[dict[str, Any]]:
    """The names that each of two blocks leaves behind, from the same critic, samples and seed."""
    left = []
    for block in pair:
        torch.manual_seed(0)
        names: dict[str, Any] = {"torch": torch, "wgan_fast": wgan_fast, "critic": small_critic()}
        names |= {"real": torch.randn(4, 3, 4, 4), "fake": torch.randn(4, 3, 4, 4)}
        for parameter in names["critic"].parameters():
            parameter.grad = torch.randn_like(parameter)
        exec(block, names)
        left.append(names)
    return left


def weights_gradients(names: dict[str, Any], loss: Tensor) -> list[Tensor]:
    return list(
        torch.autograd.grad(loss, list(names["critic"].parameters()), allow_unused=True, materialize_grads=True)
    )


def assert_equal(before: list[Tensor], after: list[Tensor]) -> None:
    for theirs, ours in zip(before, after, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_penalties_agree() -> None:
    assert_equal(*(weights_gradients(names, names["penalty"]) for names in both(BLOCKS[:2])))


def test_the_penalties_at_scored_samples_agree() -> None:
    results = both(BLOCKS[2:4])
    losses = [names["penalty"] + nn.functional.softplus(-names["scores"]).mean() for names in results]
    assert_equal(*(weights_gradients(names, loss) for names, loss in zip(results, losses, strict=True)))


def test_the_clipped_steps_agree() -> None:
    assert_equal(*(list(names["critic"].parameters()) for names in both(BLOCKS[4:6])))


def test_the_whole_step_trains() -> None:
    names: dict[str, Any] = {}
    for block in BLOCKS[6:]:
        exec(block, names)
    assert all(parameter.grad is not None for parameter in names["critic"].parameters())
