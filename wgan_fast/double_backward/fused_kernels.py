"""Kernels without a double backward, and their replacements.

cuDNN's recurrent layers (pytorch/pytorch#5261) and the fused attention kernels (flash, memory-efficient,
cuDNN; pytorch/pytorch#116350) can be differentiated once. PyTorch has slower forms of the same functions that
can be differentiated again; each function here maps to the context that selects them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_said: set[str] = set()


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        warnings.warn(message, stacklevel=4)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """cuDNN off, and nothing else changed.

    ``torch.backends.cudnn.flags`` also reads the legacy TF32 flag, which raises RuntimeError once
    ``torch.backends.cudnn.conv.fp32_precision`` has been set.
    """
    before = torch._C._get_cudnn_enabled()
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_cudnn_enabled(before)


def _recurrent(x: Any) -> AbstractContextManager[Any]:
    if not isinstance(x, Tensor) or not x.is_cuda or not torch.backends.cudnn.enabled:
        return nullcontext()
    _say_once("the critic's recurrent layers run without cuDNN here, which has no second derivative for them")
    return _without_cudnn()


def _attention(x: Any) -> AbstractContextManager[Any]:
    _say_once("the critic's attention runs as plain products here: the fused kernels have no second derivative")
    return sdpa_kernel(SDPBackend.MATH)


class plain_attention:
    """Context manager in which attention on the CPU runs as plain products; it sets one flag, and says nothing."""

    def __enter__(self) -> None:
        self.before = torch._C._get_flash_sdp_enabled()  # the CPU's flag too
        torch._C._set_sdp_use_flash(False)

    def __exit__(self, *exception: object) -> None:
        torch._C._set_sdp_use_flash(self.before)


SUBSTITUTES: dict[Any, Callable[[Any], AbstractContextManager[Any]]] = {
    torch.lstm: _recurrent,
    torch.gru: _recurrent,
    torch.rnn_tanh: _recurrent,
    torch.rnn_relu: _recurrent,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _attention,
}
