"""No kernel is compiled for the values of its arguments: ``launch`` keeps kernels by their constants alone.

Triton takes an integer that is a multiple of 16 for one that always is, and 1 for a constant, unless it is told not to.
Neither the interpreter nor a compilation ahead of time has such promises in it, so these look at what ``launch()``
itself has compiled.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", minversion="3.5")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter does not compile", allow_module_level=True)

import wgan_fast.backends.triton

HERE = Path(__file__).parent


def kernels() -> dict[str, Any]:
    """Every kernel of the package that can be launched, by name."""
    found = {}
    for module in pkgutil.iter_modules(wgan_fast.backends.triton.__path__, "wgan_fast.backends.triton."):
        if module.name.endswith(".launchers"):  # needs a device
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.endswith("_kernel"):
                found[name] = value
    return found


@pytest.mark.parametrize("name", sorted(kernels()))
def test_no_argument_of_a_kernel_is_specialised(name: str) -> None:
    parameters = kernels()[name].params
    assert [p.name for p in parameters if not (p.is_constexpr or p.do_not_specialize)] == []


# Every operation at round sizes and at the size of 1, where Triton would see multiples of 16 and constants.
ROUND_SIZES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import triton_driver
started = triton_driver.install()

import torch
from wgan_fast.backends.triton import launching
from wgan_fast.backends.triton.activation_double_backward import activation_double_backward
from wgan_fast.backends.triton.clip_weights import clip_weights_
from wgan_fast.backends.triton.gradient_norm_penalty import gradient_norm_penalty
from wgan_fast.backends.triton.interpolate import interpolate
from wgan_fast.backends.triton.norm_double_backward import norm_double_backward
from wgan_fast.backends.triton import optimizer_step
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

def everything(batch):
    for size in (1, 16, 784, 32768):
        rows = torch.zeros(batch, size)
        interpolate(rows, rows, torch.zeros(batch))
        gradient_norm_penalty(rows, target=1.0, one_sided=False, weight=1.0, reduction="mean", with_slope=True)
        activation_double_backward(rows, rows, rows, activation="silu", options=(), needed=(True, True))
        of_rows = torch.zeros(batch)
        norm_double_backward(rows, of_rows, of_rows, torch.zeros(size), rows, rows, num_groups=1, needed=(True,) * 3)
    weights = [torch.zeros(4096) for _ in range(batch)]
    steps = [torch.zeros(()) for _ in weights]
    clip_weights_(weights, -0.01, 0.01)
    rmsprop = RMSpropOptions(0.1, 0.9, 1e-8, 0.0, 0.0, False, -1.0, 1.0)
    optimizer_step.rmsprop_step_([weights, weights, weights, [], [], steps], rmsprop)
    for there in (False, True):
        optimizer_step.on_device = lambda tensor: there
        adam = AdamOptions(torch.tensor(0.1), 0.5, 0.9, 1e-8, 0.0, False, False, -1.0, 1.0)
        optimizer_step.adam_step_([weights, weights, weights, weights, [], steps], adam)

for batch in (64, 1, 62):
    everything(batch)
print(json.dumps({
    "names": [start.compiled.src.fn.__name__ for start in started],
    "kept": len(launching._compiled),
    "compiled": len({id(start.compiled) for start in started}),
    "ttir": [start.compiled.asm["ttir"] for start in {id(s.compiled): s for s in started}.values()],
}))
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = Path(__file__).parents[1] / "build" / "triton"
    done = subprocess.run(
        [sys.executable, "-c", ROUND_SIZES, str(HERE)],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_CACHE_DIR": str(cache)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_kernel_is_launched_in_these_tests(launched: dict[str, Any]) -> None:
    assert set(launched["names"]) == set(kernels())


def test_nothing_is_promised_of_an_argument(launched: dict[str, Any]) -> None:
    for ttir in launched["ttir"]:
        (signature,) = [line for line in ttir.splitlines() if "tt.func public" in line]
        assert "tt.divisibility" not in signature, signature
        assert "i64" in signature, "the line is not a kernel's signature"


def test_a_kernel_is_compiled_once_for_all_batches(launched: dict[str, Any]) -> None:
    assert launched["compiled"] == launched["kept"]
