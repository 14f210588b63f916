"""Which backends are usable here, why the others are not, and which one a call uses.

A backend is a module with one launcher per operation, named and shaped as in ``wgan_fast.reference``, and a
tuple ``DEVICE_TYPES`` of the devices whose tensors it takes. It is imported on first use; a module that cannot
be used raises ImportError, whose message ``available_backends`` shows.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType
from typing import NamedTuple

_MODULES = {
    "cpu": "wgan_fast.backends.cpu",
    "cuda": "wgan_fast.backends.cuda",
    "triton": "wgan_fast.backends.triton.launchers",
    "reference": "wgan_fast.reference",
}
_AUTO = {"cpu": ("cpu", "reference"), "cuda": ("triton", "cuda", "reference")}

# Read once: reading the environment costs as much as reading ten attributes of a tensor.
_PREFERRED = os.environ.get("WGAN_FAST_BACKEND", "auto")


class BackendStatus(NamedTuple):
    """Whether a backend can be used in this process, and if not, why not."""

    available: bool
    reason: str


def available_backends() -> dict[str, BackendStatus]:
    """Every backend by name, with its status. ``backend=`` of every operation takes one of these names.

    >>> wgan_fast.available_backends()["reference"].available
    True
    """
    return {name: _status(name) for name in _MODULES}


@functools.cache
def _load(name: str) -> ModuleType | str:
    """The backend's module, or the message of the ImportError."""
    try:
        return importlib.import_module(_MODULES[name])
    except ImportError as error:
        return str(error)


def _status(name: str) -> BackendStatus:
    loaded = _load(name)
    return BackendStatus(False, loaded) if isinstance(loaded, str) else BackendStatus(True, "")


def _serves(module: ModuleType, device_type: str) -> bool:
    return device_type in module.DEVICE_TYPES or "*" in module.DEVICE_TYPES


def choose(device_type: str, requested: str) -> ModuleType:
    """The backend for tensors on ``device_type``.

    "auto" is the first usable one of the device's list, after the one that the environment variable
    WGAN_FAST_BACKEND named when the process started; it never fails. A backend requested by name is the one used:
    an unknown name raises ValueError, a backend that cannot take these tensors RuntimeError.
    """
    return _choose(device_type, requested, _PREFERRED)


@functools.cache
def _choose(device_type: str, requested: str, preferred: str) -> ModuleType:
    for argument, value in (("backend", requested), ("WGAN_FAST_BACKEND", preferred)):
        if value != "auto" and value not in _MODULES:
            raise ValueError(f"{argument}={value!r} is not a backend: expected 'auto' or one of {sorted(_MODULES)}")
    if requested != "auto":
        return _named(device_type, requested)
    for name in (preferred, *_AUTO.get(device_type, ("reference",))):
        module = name if name == "auto" else _load(name)
        if isinstance(module, ModuleType) and _serves(module, device_type):
            return module
    raise AssertionError("the reference backend serves every device")


def _named(device_type: str, name: str) -> ModuleType:
    module = _load(name)
    if isinstance(module, str):
        problem = f"it is not available here: {module}"
    elif not _serves(module, device_type):
        problem = f"it takes tensors on {' and '.join(module.DEVICE_TYPES)} only"
    else:
        return module
    usable = [other for other, status in available_backends().items() if status.available]
    raise RuntimeError(f"backend={name!r} cannot serve {device_type} tensors: {problem} (available: {usable})")
