"""The GPU backends on CUDA tensors: the tests of this folder are marked gpu, and skipped without a device.

WGAN_FAST_TEST_DEVICE=cpu with TRITON_INTERPRET=1 rehearses the parity tests without one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import wgan_fast
from wgan_fast import backends

HERE = Path(__file__).parent
if os.environ.get("TRITON_INTERPRET") == "1":
    import interpreter_casts

    interpreter_casts.install()

DEVICE = torch.device(os.environ.get("WGAN_FAST_TEST_DEVICE", "cuda"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if DEVICE.type == "cuda" and not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture
def cuda() -> torch.device:
    """For what has no meaning elsewhere: launches, graphs, streams."""
    if DEVICE.type != "cuda":
        pytest.skip("a rehearsal without a CUDA device")
    return DEVICE


@pytest.fixture(params=["triton", "cuda"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each GPU backend; shadows the fixture of the CPU tests."""
    name = str(request.param)
    status = wgan_fast.available_backends()[name]
    if not status.available:
        pytest.skip(status.reason)
    try:
        backends.choose(DEVICE.type, name)
    except RuntimeError as error:
        pytest.skip(str(error))
    return name
