"""The Triton backend where it cannot be used: the reason in one line, and "auto" uses another."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NO_TRITON = """
import sys
sys.modules["triton"] = None
expected = "Triton is not installed"
"""
OLD_TRITON = """
import sys, types
sys.modules["triton"] = types.ModuleType("triton")
sys.modules["triton"].__version__ = "3.4.0"
expected = "Triton 3.4.0 is too old: expected 3.5 or newer"
"""
NO_DEVICE = """
import torch
torch.cuda.is_available = lambda: False
expected = "Triton needs a CUDA device"
"""
BROKEN_DRIVER = """
import torch
torch.cuda.is_available = lambda: True
import triton
class Driver:
    def get_current_target(self):
        raise RuntimeError("libcuda.so cannot open the device")
triton.runtime.driver.set_active(Driver())
expected = "Triton found no usable CUDA driver [RuntimeError: libcuda.so cannot open the device]"
"""
CHECK = """
import wgan_fast
from wgan_fast import backends
status = wgan_fast.available_backends()["triton"]
assert not status.available and expected in status.reason, status
assert "\\n" not in status.reason
backends._MODULES["cuda"] = "wgan_fast.no_such_module"
assert backends.choose("cuda", "auto").__name__ == "wgan_fast.reference"
try:
    backends.choose("cuda", "triton")
except RuntimeError as error:
    assert expected in str(error), error
else:
    raise AssertionError("a backend that cannot serve was chosen")
"""


def run(code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("world", [NO_TRITON, OLD_TRITON], ids=["absent", "too old"])
def test_without_a_recent_triton_the_reason_is_a_sentence_and_auto_does_without(world: str) -> None:
    run(world + CHECK)


@pytest.mark.parametrize("world", [NO_DEVICE, BROKEN_DRIVER], ids=["no device", "broken driver"])
def test_without_a_device_the_reason_is_a_sentence_and_auto_does_without(world: str) -> None:
    pytest.importorskip("triton", minversion="3.5")
    run(world + CHECK)


def test_importing_the_package_does_not_import_triton() -> None:
    run("import sys, wgan_fast; assert not [name for name in sys.modules if name.split('.')[0] == 'triton']")
