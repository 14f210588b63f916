"""Linear layers in fp32 on the CPU, by oneDNN where torch's own way is slower.

torch leaves them to MKL. On two cores of an AMD EPYC with AVX-512 that reached 190 GFLOP/s where oneDNN, which torch
brings along for convolutions and 16-bit types, reached 400; on Intel's processors MKL stays. The choice depends on the
processor alone, so a run and its continuation take the same way; oneDNN's bits did not depend on the addresses there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.zero_gradients import wanted

LEAST_WORK = 1 << 21
"""Multiplications below which the longer way to oneDNN does not pay."""

NARROW = 16
"""Outputs up to which MKL is the faster one."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, equal to ``F.linear`` to rounding; without autograd.

    Args:
        x: ``(M, K)``.
        weight: ``(N, K)``; the transpose of another matrix is as good.
        bias: ``(N,)``.
    """
    if not _serves(x, weight, bias):
        return F.linear(x, weight, bias)
    result: Tensor = _onednn()(x, weight, bias, "none", [], "")
    return result


def fast_linear(device: torch.device) -> AbstractContextManager[Any]:
    """Within this context linear layers on that device multiply as `product` does, with gradients of any order.

    Left to torch: what is under compilation, ``torch.func``, forward mode or saved-tensor hooks (checkpoints).
    """
    return _FastLinear() if device.type == "cpu" and _onednn() is not None else nullcontext()


class _FastLinear(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _replaced(*args) if func is F.linear and not kwargs and plain_autograd() else NotImplemented
        return func(*args, **(kwargs or {})) if result is NotImplemented else result


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        x, weight = ctx.saved_tensors
        # Not ctx.needs_input_grad: a generator step goes through the critic, whose weights' gradients nobody asks for.
        mask = [wanted(node) for node, _ in ctx.next_functions]
        mask += [False] * (3 - len(mask))
        return (
            _linear(grad, weight.t(), None) if mask[0] else None,
            _linear(grad.t(), x.t(), None) if mask[1] else None,
            grad.sum(0) if mask[2] else None,
        )


_linear: Callable[[Tensor, Tensor, Tensor | None], Tensor] = _Linear.apply


def _replaced(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    return _linear(input, weight, bias) if _serves(input, weight, bias) else NotImplemented


REPLACEMENTS: dict[Any, Callable[..., Any]] = {F.linear: _replaced}


def _serves(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        x.dim() == weight.dim() == 2
        and x.shape[1] == weight.shape[1]
        and x.dtype == weight.dtype == torch.float32
        and x.is_cpu
        and weight.is_cpu
        and weight.shape[0] > NARROW
        and x.numel() * weight.shape[0] >= LEAST_WORK
        and {type(x), type(weight)} <= {Tensor, nn.Parameter}
        and (bias is None or (type(bias) in (Tensor, nn.Parameter) and bias.shape == weight.shape[:1]))
        and (bias is None or (bias.dtype == torch.float32 and bias.is_cpu))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and _onednn() is not None
    )


@functools.cache
def _onednn() -> Any:
    """oneDNN's product as torch registers it for its compiler, or None; no public function leads to it in fp32."""
    operation = getattr(getattr(torch.ops, "mkldnn", None), "_linear_pointwise", None)
    if operation is None or not torch._C._has_mkldnn or not _mkl_is_slow():
        return None
    try:
        matrix = torch.eye(2, dtype=torch.float32, device="cpu")  # whatever the defaults are when this is asked
        return operation if torch.equal(operation(matrix, matrix, None, "none", [], ""), matrix) else None
    except (RuntimeError, TypeError, NotImplementedError):  # another signature, in another version of torch
        return None


def _mkl_is_slow() -> bool:
    """Whether this is a processor of AMD's with AVX-512: what the module's first lines say was measured on one."""
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "AuthenticAMD" in processor and torch.backends.cpu.get_cpu_capability() == "AVX512"
