"""Zero gradients where eager has them, without the pass that computes them.

A parameter that only the second derivatives of piecewise-linear operations reach, such as a hidden bias,
has a gradient of zeros in eager, not None: ``torch.autograd.grad(penalty, critic.parameters())`` works,
optimizers decay their momentum, DistributedDataParallel finds all parameters used. The shortcut leaves
those second derivatives out, and gives the zeros to the leaves directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules._functions import BackwardHookFunction

from wgan_fast.double_backward.penalised_points import is_of_use


class _ZeroGradients(Function):
    """The identity on its first argument; a gradient of zeros to all others."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *others: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.others = others
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return grad, *[None] * len(ctx.others)
        nodes = [node for node, _ in ctx.next_functions[1:]]
        # Parameters are what gradients are taken for; points can be large, and their gradient is rarely needed.
        zeros = (
            torch.zeros_like(tensor) if isinstance(tensor, nn.Parameter) or (wanted(node) and is_of_use(node)) else None
            for tensor, node in zip(ctx.others, nodes, strict=True)
        )
        return grad, *zeros


_zero_gradients: Callable[..., Tensor] = _ZeroGradients.apply


def keep_zero_gradients(node: Any, result: Tensor, anchor: Tensor) -> Tensor:
    """``result``, as a value whose derivative also brings zeros to the leaves before ``node``.

    ``node`` is the autograd node in whose backward this is called; it has an attribute ``visit``, None at
    first. ``anchor`` is a tensor that it saved. The first such node of a backward pass handles all leaves before
    it and marks the other such nodes there as visited. Where a module's full backward hook lies on the way, the
    zeros go along the graph as in eager: the hook expects tensors.

    Where one backward signal serves scores and gradients (`shared_pass`), its own nodes give the zeros.
    """
    shared = getattr(node, "shared", None)
    if shared is not None and shared.proven:
        return result
    task = torch._C._current_graph_task_id()
    if node.visit is not None and node.visit[0] == task:
        return _zero_gradients(result, anchor) if node.visit[1] else result
    leaves, inner, hooked = _survey(node)
    for other in inner:
        other.visit = (task, hooked)
    return _zero_gradients(result, *((anchor,) if hooked else leaves))


# Operand positions of the products a·b. Where the pass differentiates one operand, its gradient is a product
# with the other, which therefore has a true gradient later, and so has all before it. Leaving it out saves a
# pass over the weights: 6 % of the penalty of a 3x512 MLP, 3 % of a DCGAN-64 critic's.
_PRODUCTS = {
    "MmBackward0": (0, 1),
    "BmmBackward0": (0, 1),
    "AddmmBackward0": (1, 2),
    "BaddbmmBackward0": (1, 2),
    "ConvolutionBackward0": (0, 1),
    "_ConvolutionBackward": (0, 1),
    "_LinearBackward": (0, 1),
}


def _survey(start: Any) -> tuple[list[Tensor], list[Any], bool]:
    """All before a node: leaves, nodes that call ``keep_zero_gradients``, whether there are module hooks."""
    leaves: list[Tensor] = []
    inner: list[Any] = []
    hooked = False
    seen = {start}
    pending = [start]
    while pending:
        parent = pending.pop()
        edges = [node for node, _ in parent.next_functions]
        if (operands := _PRODUCTS.get(parent.name())) is not None:
            left, right = (_differentiated(edges[i], parent) for i in operands)
            if left != right:
                edges[operands[1] if left else operands[0]] = None
        for node in edges:
            if node is None or node in seen:
                continue
            seen.add(node)
            if (leaf := getattr(node, "variable", None)) is not None:
                leaves.append(leaf)
                continue
            pending.append(node)
            if hasattr(node, "visit"):
                inner.append(node)
            elif getattr(node, "_forward_cls", None) is BackwardHookFunction:
                hooked = True
    return leaves, inner, hooked


def _differentiated(node: Any, parent: Any) -> bool:
    """Whether the running backward pass computes the gradient that ``parent`` hands to ``node``."""
    leaf = getattr(node, "variable", None)
    # Probably the points: _wanted would raise an exception for them, which is slow.
    return wanted(node if leaf is None or isinstance(leaf, nn.Parameter) else parent)


def wanted(node: Any) -> bool:
    """Whether the running backward pass reaches this node; ``ctx.needs_input_grad`` only says that one could."""
    if node is None:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # a leaf that was passed to torch.autograd.grad
        return True
