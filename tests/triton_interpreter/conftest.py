"""The Triton backend on CPU tensors, by Triton's interpreter, in a process of their own:

TRITON_INTERPRET=1 pytest tests/triton_interpreter
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    import interpreter_casts

    interpreter_casts.install()

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Elsewhere the variable must not be set: the tests of this folder are left to a process of their own."""
    if not INTERPRETED:
        mine = [item for item in items if HERE in item.path.parents]
        items[:] = [item for item in items if HERE not in item.path.parents]
        config.hook.pytest_deselected(items=mine)


def pytest_report_collectionfinish() -> str:
    return "" if INTERPRETED else "deselected: tests/triton_interpreter, which needs TRITON_INTERPRET=1"


@pytest.fixture
def backend() -> str:
    """Shadows the fixture of the parity tests: they run over this backend here."""
    return "triton"


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that small inputs cross their edges, and rows of 20 elements are long."""
    from wgan_fast.backends.triton import clip_weights, gradient_norm_penalty, interpolate, optimizer_step

    monkeypatch.setattr(clip_weights, "BLOCK", 32)
    monkeypatch.setattr(interpolate, "BLOCK", 32)
    monkeypatch.setattr(optimizer_step, "BLOCK", 32)
    monkeypatch.setattr(optimizer_step, "COUNT_BLOCK", 2)
    monkeypatch.setattr(gradient_norm_penalty, "SHORT_TILE", 32)
    monkeypatch.setattr(gradient_norm_penalty, "ROW_LIMIT", 16)
    monkeypatch.setattr(gradient_norm_penalty, "STEP", 16)
    monkeypatch.setattr(gradient_norm_penalty, "SPLIT_PROGRAMS", 6)
