"""Every Python block of the documentation runs, page after page, over the names that a reader's loop would have."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wgan_fast
from docs import figures

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
GUIDES = [page for page in PAGES if page.startswith("drop-in/") and page != "drop-in/index.md"]
FENCE = re.compile(r"^( *)```python\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[str]:
    """The code of a page; blocks inside tabs are indented."""
    found = FENCE.findall((DOCS / page).read_text())
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


class Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.embedding = images(), nn.Embedding(10, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.net(x) + self.embedding(labels)


class TwoScales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = images(), nn.Conv2d(3, 1, 2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"full": self.fine(x).squeeze(1), "half": self.coarse(x)}


def images(activation: type[nn.Module] = nn.LeakyReLU) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), activation(), nn.Linear(16, 1))


def rows(features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, 1))


def prelude() -> dict[str, Any]:
    """What the drop-in guides take for granted."""
    critic = images()
    for parameter in critic.parameters():
        parameter.grad = torch.zeros_like(parameter)
    packs, motions = rows(30), rows(10)
    return {
        "torch": torch,
        "wgan_fast": wgan_fast,
        "critic": critic,
        "real": torch.randn(8, 3, 4, 4),
        "fake": torch.randn(8, 3, 4, 4),
        "gamma": 1.0,
        "discriminator": motions,
        "motion": torch.randn(8, 10),
        "agent": torch.randn(8, 10),
        "policy": rows(6),
        "skrl_discriminator": SimpleNamespace(act=lambda inputs, role: (motions(inputs["observations"]), {})),
        "module": SimpleNamespace(critic=critic, device=torch.device("cpu")),
        "states": torch.randn(8, 6),
        "actions": torch.randn(8, 4),
        "packed_critic": lambda x: packs(x.reshape(-1, 30)),
        "real_rows": torch.randn(20, 3),
        "fake_rows": torch.randn(20, 3),
        "multi_scale_critic": TwoScales(),
        "conditional_critic": Labelled(),
        "labels": torch.arange(8),
        "smooth_critic": images(nn.SiLU),
    }


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_the_blocks_of_a_page_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = prelude()
    for block in blocks(page):
        exec(block, names)


@pytest.mark.parametrize("page", GUIDES)
def test_before_and_after_of_a_guide_agree(page: str) -> None:
    """Blocks in tabs come in pairs, which leave equal penalties and losses behind."""
    text = (DOCS / page).read_text()
    ((before, after),) = re.findall(
        r'=== "Before"\n(.*?)=== "After"\n(.*?)(?=^\S|\Z)', text, flags=re.DOTALL | re.MULTILINE
    )
    left = []
    for tab in (before, after):
        torch.manual_seed(0)
        names = prelude()
        torch.manual_seed(1)
        for indent, code in FENCE.findall(tab):
            exec(re.sub(rf"^{indent}", "", code, flags=re.MULTILINE), names)
        left.append(names)
    compared = [name for name in ("penalty", "loss") if name in left[0]]
    assert compared
    for name in compared:
        torch.testing.assert_close(left[0][name], left[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_what_its_script_draws(name: str) -> None:
    assert (figures.IMAGES / f"{name}.svg").read_text() == figures.draw(figures.FIGURES[name])
