"""The parity tests of every operation over the CUDA backend, its kernels running on the host."""

from __future__ import annotations

from parity import parity_tests

globals().update(parity_tests())
