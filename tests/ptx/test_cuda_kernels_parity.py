"""The parity tests of every operation over the CUDA kernels as nvcc compiles them, under their own launchers."""

from __future__ import annotations

from types import ModuleType

import pytest
from parity import parity_tests

globals().update(parity_tests())


@pytest.fixture
def backend(cuda_on_host: ModuleType) -> str:
    """Shadows the fixture of the parity tests."""
    return "cuda"
