"""Triton's interpreter with a GPU's casts, where its own differ.

Its bf16 cuts bits off instead of rounding, and loses subnormals; a float passed to a kernel stays Python's, of which
Triton 3.6 makes a constant without the sign of -0.0; and Triton 3.6 reads integers in a way that numpy 2.5 refuses.

It also replaces the functions of triton.language anew for every call of a device function, which takes two thirds of
its time; here it does so where they are not replaced yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_original_cast = interpreter.InterpreterBuilder.cast_impl
_original_argument = interpreter._implicit_cvt
_original_patch = interpreter._patch_lang_tensor
_original_language_patch = interpreter._patch_lang


def _cast(self: Any, source: Any, target: Any) -> Any:
    kinds = (source.dtype.scalar, target.scalar)
    if kinds == (tl.float32, tl.bfloat16):
        bits = torch.from_numpy(source.data.copy()).to(torch.bfloat16).view(torch.uint16)
        return interpreter.TensorHandle(bits.numpy(), tl.bfloat16)
    if kinds == (tl.bfloat16, tl.float32):
        values = torch.from_numpy(source.data.copy()).view(torch.bfloat16).to(torch.float32)
        return interpreter.TensorHandle(values.numpy(), tl.float32)
    return _original_cast(self, source, target)


def _argument(value: Any) -> Any:
    """A float is what the kernels declare it to be: fp64, and no constant."""
    if isinstance(value, float):
        return tl.tensor(interpreter.TensorHandle(np.array([value]), tl.float64), tl.float64)
    return _original_argument(value)


def _patch_tensor(tensor: Any, *scope: Any) -> None:
    _original_patch(tensor, *scope)
    # A scalar is an array of one dimension and one element; to numpy 2.5 only one of 0 dimensions is a number.
    tensor.__index__ = lambda self: int(self.handle.data.item())


def _patch_language(function: Any) -> Any:
    visible = [value for value in function.__globals__.values() if value is tl or value is tl.core]
    if any(tl.core.is_builtin(language.load) for language in visible):
        return _original_language_patch(function)
    return None  # a call within a launch, which is what restores the language in the end


def install() -> None:
    interpreter.InterpreterBuilder.cast_impl = _cast
    interpreter._implicit_cvt = _argument
    interpreter._patch_lang_tensor = _patch_tensor
    interpreter._patch_lang = _patch_language
