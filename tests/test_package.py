"""The package as a whole: what importing it needs, what it exports, what its parts may not do."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import wgan_fast

ROOT = Path(__file__).parent.parent


def test_importing_needs_torch_alone_and_loads_nothing_else() -> None:
    code = """
import sys

for name in ("triton", "matplotlib", "sklearn", "rich", "ot", "torchmetrics", "safetensors", "PIL",
             "scipy", "torchvision"):
    sys.modules[name] = None  # importing it raises ImportError
import torch
before = set(sys.modules)
import wgan_fast
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
assert not any(name.startswith("wgan_fast.training") or name == "wgan_fast.cli" for name in sys.modules)
assert "torch._dynamo" not in sys.modules, "the compiler costs a second at import"
weight = torch.ones(3)
wgan_fast.clip_weights_(weight, 0.5)
critic = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
wgan_fast.gradient_penalty(critic, torch.randn(2, 3), torch.randn(2, 3)).backward()
wgan_fast.optim.Adam(critic.parameters()).step()
wgan_fast.available_backends()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_what_is_exported_exists_and_is_documented() -> None:
    for name in wgan_fast.__all__:
        assert getattr(wgan_fast, name).__doc__, name


def test_the_version_is_the_distributions() -> None:
    assert wgan_fast.__version__ == version("wgan-fast")


def test_the_version_to_cite_is_this_one() -> None:
    assert f"\nversion: {wgan_fast.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_changelog_has_this_version() -> None:
    assert f"\n## {wgan_fast.__version__}" in (ROOT / "CHANGELOG.md").read_text()
