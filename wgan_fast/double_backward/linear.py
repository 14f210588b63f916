"""Linear layers of any order of derivative on `wgan_fast.onednn`'s products."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from wgan_fast import onednn
from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.zero_gradients import wanted


def fast_linear(device: torch.device) -> AbstractContextManager[Any]:
    """Within this context linear layers on that device multiply as `onednn.product` does, with gradients of any order.

    Left to torch: what is under compilation, ``torch.func``, forward mode or saved-tensor hooks (checkpoints).
    """
    return _FastLinear() if device.type == "cpu" and onednn.operation() is not None else nullcontext()


class _FastLinear(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _replaced(*args) if func is F.linear and not kwargs and plain_autograd() else NotImplemented
        return func(*args, **(kwargs or {})) if result is NotImplemented else result


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        return onednn.product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        x, weight = ctx.saved_tensors
        # Not ctx.needs_input_grad: a generator step goes through the critic, whose weight gradients are not needed.
        mask = [wanted(node) for node, _ in ctx.next_functions]
        mask += [False] * (3 - len(mask))
        return (
            _linear(grad, weight.t(), None) if mask[0] else None,
            _linear(grad.t(), x.t(), None) if mask[1] else None,
            grad.sum(0) if mask[2] else None,
        )


_linear: Callable[[Tensor, Tensor, Tensor | None], Tensor] = _Linear.apply


def _replaced(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    return _linear(input, weight, bias) if onednn.serves(input, weight, bias) else NotImplemented


REPLACEMENTS: dict[Any, Callable[..., Any]] = {F.linear: _replaced}
