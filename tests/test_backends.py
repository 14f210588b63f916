"""The choice of a backend, the reasons for absent ones, the environment variable."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import wgan_fast
from wgan_fast import backends


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_every_backend_is_listed_with_a_reason_where_absent() -> None:
    listed = wgan_fast.available_backends()
    assert listed["reference"] == (True, "")
    assert "cpu" in listed
    for name, status in listed.items():
        assert status.available == (status.reason == ""), name


def test_the_compiled_backend_is_what_is_tested_here() -> None:
    """Without this a broken build would pass every parity test by comparing the reference with itself."""
    status = wgan_fast.available_backends()["cpu"]
    assert status.available, status.reason
    assert backends.choose("cpu", "auto").__name__ == "wgan_fast.backends.cpu"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    weight = torch.ones(3)
    with pytest.raises(ValueError, match=r"backend='fast' is not a backend: expected 'auto' or one of \['cpu'"):
        wgan_fast.clip_weights_(weight, 0.1, backend="fast")
    assert (weight == 1).all()


def test_a_named_backend_that_cannot_serve_says_why_and_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(RuntimeError, match=r"backend='cpu' cannot serve meta tensors: it takes tensors on cpu only"):
        wgan_fast.clip_weights_(torch.ones(3, device="meta"), 0.1, backend="cpu")
    monkeypatch.setitem(backends._MODULES, "absent", "wgan_fast.no_such_module")
    with pytest.raises(
        RuntimeError, match=r"backend='absent' cannot serve cpu tensors: .*not available.*available: \["
    ):
        wgan_fast.clip_weights_(torch.ones(3), 0.1, backend="absent")


def test_auto_never_fails_for_want_of_a_fast_backend() -> None:
    code = """
import sys
sys.modules["wgan_fast._cpu"] = None
import torch, wgan_fast
status = wgan_fast.available_backends()["cpu"]
assert not status.available and "C++ compiler" in status.reason, status
weight = torch.ones(3)
wgan_fast.clip_weights_(weight, 0.5)
assert (weight == 0.5).all()
assert wgan_fast.gradient_norm_penalty(torch.ones(2, 4)) == 1
try:
    wgan_fast.clip_weights_(weight, 0.5, backend="cpu")
except RuntimeError as error:
    assert "C++ compiler" in str(error)
else:
    raise AssertionError("a named backend fell back in silence")
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_the_environment_variable_changes_what_auto_means_and_nothing_else() -> None:
    code = """
import wgan_fast
from wgan_fast import backends
print(backends.choose("cpu", "auto").__name__, backends.choose("cpu", "cpu").__name__)
"""
    assert run(code, WGAN_FAST_BACKEND="reference").stdout.split() == [
        "wgan_fast.reference",
        "wgan_fast.backends.cpu",
    ]
    assert run(code, WGAN_FAST_BACKEND="auto").stdout.split() == ["wgan_fast.backends.cpu"] * 2
    unknown = run(code, WGAN_FAST_BACKEND="warp")
    assert unknown.returncode != 0
    assert "WGAN_FAST_BACKEND='warp' is not a backend" in unknown.stderr


def test_devices_without_a_backend_of_their_own_use_the_reference() -> None:
    weight = torch.ones(3, device="meta")
    wgan_fast.clip_weights_(weight, 0.1)
    assert backends.choose("meta", "auto").__name__ == "wgan_fast.reference"


def test_a_backend_that_cannot_serve_one_device_leaves_the_other_alone() -> None:
    here, there = torch.ones(3), torch.ones(3, device="meta")
    with pytest.raises(RuntimeError, match="cannot serve meta tensors"):
        wgan_fast.clip_weights_([here, there], 0.25, backend="cpu")
    assert (here == 1).all()


def test_tensors_on_two_devices_in_one_list() -> None:
    here, there = torch.ones(3), torch.ones(3, device="meta")
    wgan_fast.clip_weights_([there, here, there], 0.25)
    assert (here == 0.25).all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_one_openmp_runtime_and_as_many_threads_as_torch_has() -> None:
    """A second libgomp would mean two pools that fight over the cores."""
    code = """
import os
import torch, wgan_fast

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(1)
weight = torch.randn(200_000)
wgan_fast.clip_weights_(weight, 0.1, backend="cpu")
alone = threads()
torch.set_num_threads(3)
wgan_fast.clip_weights_(weight, 0.1, backend="cpu")
assert threads() == alone + 2, (alone, threads())
runtimes = {line.split()[-1] for line in open("/proc/self/maps") if "gomp" in line}
assert len(runtimes) == 1, runtimes
"""
    result = run(code, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
