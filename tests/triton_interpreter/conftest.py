"""The Triton backend on CPU tensors, by Triton's interpreter, in a process of their own:

TRITON_INTERPRET=1 pytest tests/triton_interpreter
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    import interpreter_casts

    interpreter_casts.install()

if importlib.util.find_spec("triton") is None:  # there are wheels for Linux only
    collect_ignore_glob = ["test_*.py"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Elsewhere the variable must not be set: the tests of this folder are left to a process of their own."""
    if not INTERPRETED:
        mine = [item for item in items if HERE in item.path.parents]
        items[:] = [item for item in items if HERE not in item.path.parents]
        config.hook.pytest_deselected(items=mine)


def pytest_report_collectionfinish() -> str:
    return "" if INTERPRETED else "deselected: tests/triton_interpreter, which needs TRITON_INTERPRET=1"


@pytest.fixture(autouse=True)
def _recent_triton() -> None:
    pytest.importorskip("triton", minversion="3.5")  # with an older one the backend reports that it is too old


@pytest.fixture
def backend() -> str:
    """Shadows the fixture of the parity tests: they run over this backend here."""
    return "triton"


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that small inputs cross their edges, and rows of 20 elements are long."""
    _set_tiles(monkeypatch, elements=32, step=16, row_limit=16, programs=6)


@pytest.fixture
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so large that a large input takes few programs, which the interpreter runs one after another."""
    _set_tiles(monkeypatch, elements=16384, step=16384, row_limit=16384, programs=6)


def _set_tiles(patch: pytest.MonkeyPatch, elements: int, step: int, row_limit: int, programs: int) -> None:
    from wgan_fast.backends.triton import (
        activation_double_backward,
        clip_weights,
        gradient_norm_penalty,
        interpolate,
        norm_double_backward,
        optimizer_step,
    )

    for module in (activation_double_backward, clip_weights, interpolate, optimizer_step):
        patch.setattr(module, "BLOCK", elements)
    patch.setattr(optimizer_step, "COUNT_BLOCK", elements // 8)
    patch.setattr(norm_double_backward, "TOTAL_BLOCK", elements)
    patch.setattr(norm_double_backward, "TILE", elements)
    for module in (gradient_norm_penalty, norm_double_backward):
        patch.setattr(module, "STEP", step)
        patch.setattr(module, "ROW_LIMIT", row_limit)
        patch.setattr(module, "SPLIT_PROGRAMS", programs)
    patch.setattr(gradient_norm_penalty, "SHORT_TILE", elements)
