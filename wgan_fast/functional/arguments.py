"""Checks of tensor arguments that several operations share, and how an error message describes a tensor."""

from __future__ import annotations

from torch import Tensor

from wgan_fast.dtypes import DTYPE_NAMES, DTYPES


def check_dtype(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name}: expected {DTYPE_NAMES}, got {tensor.dtype}")


def check_alike(name: str, tensor: Tensor, model_name: str, model: Tensor) -> None:
    """``tensor`` has the shape, dtype and device of ``model``."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.shape != model.shape or tensor.dtype != model.dtype or tensor.device != model.device:
        raise ValueError(f"{name}: expected {describe(model)}, as {model_name} is, got {describe(tensor)}")


def describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
