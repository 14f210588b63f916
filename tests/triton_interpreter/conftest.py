"""The Triton backend on CPU tensors, by Triton's interpreter, in a process of their own:

TRITON_INTERPRET=1 pytest tests/triton_interpreter
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    import triton.language as tl
    from triton.runtime import interpreter

    def _cast(self: Any, source: Any, target: Any) -> Any:
        """The interpreter's own fp32 -> bf16 cuts bits off instead of rounding, and loses subnormal numbers."""
        kinds = (source.dtype.scalar, target.scalar)
        if kinds == (tl.float32, tl.bfloat16):
            bits = torch.from_numpy(source.data.copy()).to(torch.bfloat16).view(torch.uint16)
            return interpreter.TensorHandle(bits.numpy(), tl.bfloat16)
        if kinds == (tl.bfloat16, tl.float32):
            values = torch.from_numpy(source.data.copy()).view(torch.bfloat16).to(torch.float32)
            return interpreter.TensorHandle(values.numpy(), tl.float32)
        return _interpreters_cast(self, source, target)

    _interpreters_cast: Callable[..., Any] = interpreter.InterpreterBuilder.cast_impl
    interpreter.InterpreterBuilder.cast_impl = _cast


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
