"""The parity tests of every operation over the Triton backend, its kernels interpreted on the CPU."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest
import test_clip_weights
import test_gradient_norm_penalty
import test_interpolate
import test_optimizer_step

# numpy's, for what the kernels do on purpose with infinities and NaN.
pytestmark = [
    pytest.mark.usefixtures("large_tiles"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]


def _over_backends(module: ModuleType) -> dict[str, Any]:
    """The tests of a module that take the fixture ``backend``."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return {name: test for name, test in functions if "backend" in inspect.signature(test).parameters}


for _module in (test_clip_weights, test_gradient_norm_penalty, test_interpolate, test_optimizer_step):
    globals().update({f"{name}_of_{_module.__name__[5:]}": test for name, test in _over_backends(_module).items()})
