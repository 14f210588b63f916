"""The parity tests of every operation over the Triton kernels as their launch path compiles them."""

from __future__ import annotations

from types import ModuleType

import pytest
from parity import parity_tests

globals().update(parity_tests())
# A clamp of tensors that overlap is a race, on purpose: in any order of the clamps the bits are the same.
del globals()["test_shared_tensors_and_overlapping_views_of_clip_weights"]


@pytest.fixture
def backend(triton_on_host: ModuleType) -> str:
    """Shadows the fixture of the parity tests."""
    return "triton"
