"""The README's Python is run as it stands, block after block, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

import wgan_fast

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def small_critic() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 1))


def test_before_and_after_agree() -> None:
    """The first two blocks are the two forms of one penalty, the next two those of one clipped step."""
    critic, real, fake = small_critic(), torch.randn(4, 3, 4, 4), torch.randn(4, 3, 4, 4)
    names = {"torch": torch, "wgan_fast": wgan_fast, "critic": critic, "real": real, "fake": fake}
    penalties = []
    for block in BLOCKS[:2]:
        torch.manual_seed(0)
        exec(block, names)
        penalties.append(names["penalty"])
    assert torch.allclose(penalties[0], penalties[1], rtol=1e-5)
    weights = []
    for block in BLOCKS[2:4]:
        torch.manual_seed(1)
        names["critic"] = critic = small_critic()
        for param in critic.parameters():
            param.grad = torch.randn_like(param)
        exec(block, names)
        weights.append([param.detach().clone() for param in critic.parameters()])
    for before, after in zip(*weights, strict=True):
        assert torch.allclose(before, after, atol=1e-8)


def test_the_rest_runs() -> None:
    names: dict[str, Any] = {}
    for block in BLOCKS[4:]:
        exec(block, names)
    assert names["samples"].shape == names["twos"].shape == (64, 2)
    assert names["paths"].shape == (4, 10, 2)
    assert names["trainer"].iteration == 20
