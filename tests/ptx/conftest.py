"""The compiled kernels of the Triton and CUDA backends on CPU tensors, executed by the PTX interpreter.

How to add a kernel. Its launcher in ``wgan_fast/backends/cuda.py`` or ``wgan_fast/backends/triton/launchers.py`` needs
nothing: the fixtures ``cuda_on_host`` and ``triton_on_host`` are these modules, with every public launcher taking CPU
tensors, and new files in ``csrc/cuda`` are compiled as they come. So:

1. If the operation has parity tests (functions that take the fixture ``backend``) in a module that ``tests/parity.py``
   lists, it has them here too, once per backend. That is the one line that most operations need.
2. Otherwise call the launcher, and compare with ``reference``:

       @pytest.mark.parametrize("dtype", DTYPES)
       def test_my_kernel(dtype, launchers):             # test_kept_kernels.py: over both backends
           for batch in ROUND_THEN_ODD:                  # 64, 62, 63, 1: a kept kernel meets other numbers
               x = apart(torch.randn(batch, 784).to(dtype))  # apart: no tensor is next to it in memory
               actual = launchers.my_kernel(x)
               exact, theirs = reference.my_kernel(x.double()), reference.my_kernel(x)
               assert_as_close_as(actual, theirs, exact)

3. An instruction that is unknown is an error with its name: a few lines in instructions.py, and a test beside those of
   test_instructions.py. A function of the CUDA runtime that is missing goes to host_runtime.cpp.
4. Which tensors a launch may touch is recorded: the launcher's arguments and all that torch makes while it runs.
   A module-level buffer that a launcher keeps has to be passed to it, or to be made while it runs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from wgan_fast import backends

BUILD = Path(__file__).resolve().parents[2] / "build"


def _use(name: str, module: ModuleType, patch: pytest.MonkeyPatch) -> None:
    """Make ``module`` the backend of that name."""
    patch.setitem(sys.modules, module.__name__, module)
    patch.setitem(backends._MODULES, name, module.__name__)
    backends._load.cache_clear()
    backends._choose.cache_clear()


@pytest.fixture(scope="session")
def _triton_launchers() -> Iterator[ModuleType]:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter does not compile")
    triton = pytest.importorskip("triton", minversion="3.5")
    from interpreted_triton import Driver

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(BUILD / "triton"))
        patch.setattr(triton.runtime.driver, "_active", Driver())
        with pytest.MonkeyPatch.context() as device:  # only to import: torch.optim asks the driver of such a device
            device.setattr(torch.cuda, "is_available", lambda: True)
            launchers = importlib.import_module("wgan_fast.backends.triton.launchers")
        yield launchers


@pytest.fixture
def triton_on_host(_triton_launchers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The launchers of the Triton backend as the backend "triton" for CPU tensors, nothing compiled yet."""
    from operation_memory import recorded_backend

    from wgan_fast.backends.triton import launching

    monkeypatch.setattr(launching, "_compiled", {})
    module = recorded_backend("ptx_triton_launchers", _triton_launchers)
    _use("triton", module, monkeypatch)
    yield module
    monkeypatch.undo()
    backends._load.cache_clear()
    backends._choose.cache_clear()


@pytest.fixture(scope="session")
def cuda_runtime():
    """The CUDA extension over the interpreter."""
    from build_tools import cuda

    if cuda.find_nvcc() is None:
        pytest.skip("nvcc is not installed")
    from interpreted_cuda import Runtime, build

    return Runtime(*build())


@pytest.fixture
def cuda_on_host(cuda_runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The launchers of the CUDA backend as the backend "cuda" for CPU tensors."""
    from operation_memory import recorded_backend

    import wgan_fast

    cuda_runtime.install()
    monkeypatch.setattr(wgan_fast, "_cuda", cuda_runtime.extension, raising=False)
    monkeypatch.setitem(sys.modules, "wgan_fast._cuda", cuda_runtime.extension)
    monkeypatch.delitem(sys.modules, "wgan_fast.backends.cuda", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    launchers = importlib.import_module("wgan_fast.backends.cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)  # what a CPU tensor's get_device() says
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launchers, "_current_stream", lambda device: 0)
    module = recorded_backend("ptx_cuda_launchers", launchers)
    _use("cuda", module, monkeypatch)
    yield module
    monkeypatch.undo()
    backends._load.cache_clear()
    backends._choose.cache_clear()
