"""``wgan-fast doctor``: what a bug report needs. It takes torch alone, so that it can report missing extras."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

import torch

import wgan_fast

# Those of the extra ``train`` between two that other extras or the user may bring.
TRAIN = ("numpy", "rich", "matplotlib", "scikit-learn", "pillow", "POT", "PyYAML", "torchmetrics", "safetensors")
PACKAGES = ("triton", *TRAIN, "torchvision")


def print_doctor() -> None:
    """What a bug report needs: versions, devices, backends with the reason for each absent one, thread counts."""
    sections = {
        "versions": {
            "wgan-fast": wgan_fast.__version__,
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "torch": torch.__version__,
            **{name: _version(name) for name in PACKAGES},
        },
        "devices": _devices(),
        "backends": {
            name: "available" if backend.available else f"not available: {backend.reason}"
            for name, backend in wgan_fast.available_backends().items()
        },
        "threads": {
            "cores": str(os.cpu_count()),
            "torch.get_num_threads()": str(torch.get_num_threads()),
            "torch.get_num_interop_threads()": str(torch.get_num_interop_threads()),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
            "WGAN_FAST_BACKEND": os.environ.get("WGAN_FAST_BACKEND", "not set"),
        },
    }
    for section, facts in sections.items():
        print(section)
        for name, fact in facts.items():
            print(f"  {name:<32}{fact}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"}
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        devices["cuda"] = "not available: " + ("no usable GPU" if built else "this torch is built without CUDA")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"compute capability {properties.major}.{properties.minor}"
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {capability}"
    return devices
