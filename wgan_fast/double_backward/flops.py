"""Counting the matrix work of a function, exactly and without touching modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def count_flops(function: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions that a function runs, a multiply-add as two.

    ``torch.utils.flop_counter.FlopCounterMode`` hooks modules, which changes how a critic's double backward is
    computed, and its formula forgets the groups in a convolution's weight gradient.
    """
    with _Counter() as counter:
        function()
    return int(counter.flops)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        from torch.utils.flop_counter import conv_flop_count, flop_registry  # a slow import, for few users

        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.flops = 0
        self._registry, self._convolution = flop_registry, conv_flop_count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is torch.ops.aten.convolution_backward.default:
            grad, x, weight, transposed, mask = args[0], args[1], args[2], args[7], args[10]
            one = self._convolution(list(x.shape), list(weight.shape), list(grad.shape), transposed)
            self.flops += one * (mask[0] + mask[1])
        elif (formula := self._registry.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        elif func is getattr(torch.ops.mkldnn._linear_pointwise, "default", None):  # oneDNN's product
            self.flops += 2 * args[0].numel() * args[1].shape[0]
        return result
