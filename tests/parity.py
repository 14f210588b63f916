"""The parity tests of the operations, to be run again over another backend or on another device.

A test file that updates its globals with ``parity_tests()`` collects every parity test that takes the fixture
``backend``; the ``conftest.py`` beside it says what that is there.
"""

from __future__ import annotations

import inspect
from typing import Any

import test_activation_double_backward
import test_clip_weights
import test_gradient_norm_penalty
import test_interpolate
import test_norm_double_backward
import test_optimizer_step

MODULES = (
    test_activation_double_backward,
    test_clip_weights,
    test_gradient_norm_penalty,
    test_interpolate,
    test_norm_double_backward,
    test_optimizer_step,
)


def parity_tests() -> dict[str, Any]:
    """Each test under its own name and its operation's: two operations may have tests of one name."""
    return {
        f"{name}_of_{module.__name__.removeprefix('test_')}": function
        for module in MODULES
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("test_") and "backend" in inspect.signature(function).parameters
    }
