"""The points where a gradient is penalised, if the library made them: leaves that no caller sees.

Their gradient is taken once, for the penalty. Where the second derivative is not zero, or the scores enter the loss,
the loss depends on them too, and ``loss.backward()`` would compute that gradient as well: one more product with the
first layer's weights, 7 % of the work for a perceptron 784-512-512-512, for a tensor that is dropped. The first layers
leave it out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def mark_points(leaf: Tensor) -> Tensor:
    """``leaf``, whose own gradient nobody reads but ``torch.autograd.grad``."""
    if not torch.compiler.is_compiling():
        leaf._wgan_fast_points = True  # type: ignore[attr-defined]
    return leaf


def starts_at_points(x: Tensor) -> bool:
    """Whether x is marked, or was made from marked points alone."""
    return _is_marked(x) if x.grad_fn is None else _points_before(x.grad_fn) is not None


def is_of_use(node: Any, observed: bool = False) -> bool:
    """False where a gradient that arrives at ``node`` would reach marked points alone, and be dropped there.

    ``observed``: whether a hook of a tensor in between may expect it.
    """
    leaf = None if observed else _points_before(node)
    try:
        return leaf is None or not torch._C._will_engine_execute_node(leaf)
    except RuntimeError:  # the points were passed to torch.autograd.grad
        return True


def _points_before(node: Any) -> Any:
    """The node of the marked points that this one leads to, through operations of one input."""
    while not hasattr(node, "variable"):
        # A Function in Python may be that of a module's backward hook, which expects the gradient.
        if node is None or len(node.next_functions) != 1 or hasattr(node, "_forward_cls"):
            return None
        node = node.next_functions[0][0]
    return node if _is_marked(node.variable) else None


def _is_marked(tensor: Tensor) -> bool:
    return hasattr(tensor, "_wgan_fast_points")
