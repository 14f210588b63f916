"""The parity tests of every operation over the Triton kernels as their launch path compiles them."""

from __future__ import annotations

from types import ModuleType

import pytest
from parity import parity_tests

globals().update(parity_tests())


@pytest.fixture
def backend(triton_on_host: ModuleType) -> str:
    """Shadows the fixture of the parity tests."""
    return "triton"
