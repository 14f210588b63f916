"""The parity tests of every operation over the Triton backend, its kernels interpreted on the CPU."""

from __future__ import annotations

import pytest
from parity import parity_tests

# numpy's, for what the kernels do on purpose with infinities and NaN.
pytestmark = [
    pytest.mark.usefixtures("large_tiles"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

globals().update(parity_tests())
