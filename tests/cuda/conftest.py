"""The CUDA backend on CPU tensors: its own launchers and kernels, compiled for the host (see host/cuda_runtime.h)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import host_build
import pytest
import torch

from wgan_fast import backends

needs_compiler = pytest.mark.skipif(host_build.compiler() is None, reason="g++ is not installed")


@pytest.fixture(scope="session")
def host_extension() -> ModuleType:
    """wgan_fast._cuda, with host memory for device memory."""
    if host_build.compiler() is None:
        pytest.skip("g++ is not installed")
    # Under its own name pybind11 would hand out the real module, where that has been imported.
    spec = importlib.util.spec_from_file_location("host_cuda._cuda", host_build.build_module())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cuda_on_host(host_extension: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """wgan_fast.backends.cuda over the host's kernels, as the backend "cuda" for CPU tensors."""
    import wgan_fast

    monkeypatch.setattr(wgan_fast, "_cuda", host_extension, raising=False)
    monkeypatch.setitem(sys.modules, "wgan_fast._cuda", host_extension)
    monkeypatch.delitem(sys.modules, "wgan_fast.backends.cuda", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backends._load.cache_clear()
    backends._choose.cache_clear()
    module = backends._load("cuda")
    assert isinstance(module, ModuleType), module
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)  # what a CPU tensor's get_device() says
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(module, "_current_stream", lambda device: 0)
    monkeypatch.setattr(module, "DEVICE_TYPES", ("cpu",))
    yield module
    backends._load.cache_clear()
    backends._choose.cache_clear()


@pytest.fixture
def backend(cuda_on_host: ModuleType) -> str:
    """Shadows the fixture of the parity tests: they run over this backend here."""
    return "cuda"
