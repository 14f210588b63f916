"""A forward pass whose scores and input gradients enter one loss, and what the loss says about its scores.

With L = ℓ(s) + P(g), s_b = D(x_b), g_b = ∇ₓD(x_b), let c_b = ∂ℓ/∂s_b, u_b = ∂P/∂g_b, and δ the backward signals of
Σ_b s_b, which were computed for g. For a critic of affine layers and piecewise-linear activations, with the tangent t
of `double_backward` and the activations a of the forward pass,

    ∂L/∂W_l = Σ_b δ_l,b ⊗ (t_{l-1,b} + c_b a_{l-1,b}),    ∂L/∂b_l = Σ_b c_b δ_l,b :

the backward pass of ℓ is that of Σ_b s_b, scaled by c_b per sample. Forward pass, δ, t and one product per weight
are four units of matrix work; autograd, which differentiates ℓ and P one after the other, does six.

`join` is the last node of both graphs. If the gradients of scores and of input gradients arrive in one backward pass,
it keeps c for the nodes of the second graph, where the parameters enter (`entries`), and continues with u alone. In
every other case it passes both on, and the nodes behave as autograd's own do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wgan_fast.double_backward.zero_gradients import wanted

current_pass: ContextVar[SharedPass | None] = ContextVar("current_pass", default=None)
"""The forward pass that is running: the default for nodes."""

_numbers = itertools.count()


class SharedPass:
    """State shared by the nodes of one forward pass.

    Attributes:
        batch: the number of samples.
        proven: whether each parameter's gradient may be taken from one backward signal (set after the forward pass).
        observed: whether a hook may see the tensors in between.
        capturing: whether the input gradients' graph, to which c belongs, is being built.
        sides: tensors that entered through `entries`, and must not depend on the inputs.
        ticket: a scalar leaf; its gradient, always zero, stands for `entries.enter`'s second graph.
    """

    def __init__(self, batch: int, like: Tensor) -> None:
        self.batch = batch
        self.proven = False
        self.observed = False
        self.capturing = False
        self.sides: list[Tensor] = []
        self.ticket: Tensor | None = None
        self.seed_scale: Tensor | None = None
        self._number = next(_numbers)
        self._like = (like.dtype, like.device)
        self._slopes: dict[int, dict[Any, Tensor]] = {}

    # The mark is an attribute of the tensor, so that it lives as long; an in-place change invalidates it.
    def mark(self, tensor: Tensor) -> None:
        """Record that each block of ``len(tensor) / batch`` rows depends on one sample, in the order of samples."""
        tensor._wgan_fast_rows = (self._number, tensor._version)  # type: ignore[attr-defined]

    def is_marked(self, tensor: Any) -> bool:
        return (
            type(tensor) is Tensor
            and getattr(tensor, "_wgan_fast_rows", None) == (self._number, tensor._version)
            and tensor.requires_grad
        )

    def prove(self, scores: Tensor, points: list[Tensor]) -> bool:
        """Whether scores were computed from the points as `rows` requires; call it after the forward pass."""
        self.proven = (
            not self.observed
            and self.is_marked(scores)
            and scores.numel() == len(scores) == self.batch
            and not reaches(self.sides, points)
        )
        self.sides = []
        return self.proven

    def draw_ticket(self) -> Tensor:
        if self.ticket is None:
            dtype, device = self._like
            self.ticket = torch.zeros((), dtype=dtype, device=device, requires_grad=True)
        return self.ticket

    def keep_slopes(self, slopes: Tensor) -> None:
        """Keep c until the running backward pass ends."""
        task = torch._C._current_graph_task_id()
        if self.seed_scale is not None:
            slopes = slopes / self.seed_scale
        self._slopes[task] = {None: slopes.flatten()}
        torch.autograd.Variable._execution_engine.queue_callback(partial(self._forget, task))

    def _forget(self, task: int) -> None:
        self._slopes.pop(task, None)

    def slopes(self, like: Tensor) -> Tensor | None:
        """c in the dtype of ``like``, of shape (len(like), 1, ..., 1); None if the scores' gradient has not arrived."""
        kept = self._slopes.get(torch._C._current_graph_task_id())
        if kept is None:
            return None
        kind = (like.dtype, like.device)
        c = kept.get(kind)
        if c is None:
            c = kept[kind] = kept[None].to(like.device, like.dtype)
        if len(like) != self.batch:
            c = c.repeat_interleave(len(like) // self.batch)
        return c.view(-1, *[1] * (like.dim() - 1))


def with_slopes(shared: SharedPass | None, tangent: Tensor | None, value: Tensor) -> Tensor | None:
    """t + c a: what the backward signal is multiplied with to give a weight's gradient; None for zero."""
    c = None if shared is None else shared.slopes(value)
    if c is None:
        return tangent
    return value * c if tangent is None else torch.addcmul(tangent, value, c)


def nodes_before(roots: Iterable[Tensor]) -> Iterator[Any]:
    """Every node of the graph that the roots were computed by, once."""
    pending = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen = set(pending)
    while pending:
        node = pending.pop()
        yield node
        new = {other for other, _ in node.next_functions if other is not None} - seen
        seen |= new
        pending += new


def reaches(sides: list[Tensor], points: list[Tensor]) -> bool:
    """Whether a side depends on one of the points."""
    if any(side is point for side in sides for point in points):
        return True
    targets = {point.grad_fn or torch.autograd.graph.get_gradient_edge(point).node for point in points}
    return any(node in targets for node in nodes_before(sides))


class _Join(Function):
    """The identity on scores and input gradients, where their own gradients meet."""

    @staticmethod
    def forward(ctx: Any, shared: SharedPass, count: int, scores: Tensor, *rest: Tensor) -> Any:
        """``rest``: the ``count`` input gradients, as many inputs, and the ticket's gradient if there is one."""
        ctx.set_materialize_grads(False)
        ctx.shared = shared
        gradients = rest[:count]
        ctx.kinds = [(g.shape, g.dtype, g.device) for g in gradients]
        ctx.save_for_backward(*(g if x.requires_grad else None for g, x in zip(gradients, rest[count:], strict=False)))
        # Not views, so that callers may change them in place; they share their version, so that it is noticed.
        return scores.detach(), *(g.detach() for g in gradients)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *slopes: Tensor | None) -> Any:
        shared: SharedPass = ctx.shared
        scores_only = all(u is None for u in slopes)
        ticket = () if shared.ticket is None else (None if scores_only else torch.zeros_like(shared.ticket),)
        further = torch.is_grad_enabled()  # derivatives of these derivatives go along both graphs
        zeros = [partial(torch.zeros, shape, dtype=dtype, device=device) for shape, dtype, device in ctx.kinds]
        onward: list[Tensor | None] = [None] * len(slopes)
        nodes = [node for node, _ in ctx.next_functions[1 + len(slopes) :]]
        if grad is None:
            onward = [zero() if wanted(node) else None for zero, node in zip(zeros, nodes, strict=False)]
        if grad is None or scores_only or further:
            return None, None, grad, *slopes, *onward, *ticket
        shared.keep_slopes(grad)
        # Of a loss of the scores, the gradient at x_b is c_b g_b; of the penalty, it is zero almost everywhere.
        for i, (g, node) in enumerate(zip(ctx.saved_tensors, nodes, strict=False)):
            if g is not None and wanted(node):
                onward[i] = grad.reshape(-1, *[1] * (g.dim() - 1)).to(g.dtype) * g
        # Each node of the second graph has to be visited.
        slopes = tuple(zero() if u is None else u for u, zero in zip(slopes, zeros, strict=True))
        return None, None, None, *slopes, *onward, *ticket


join: Callable[..., tuple[Tensor, ...]] = _Join.apply
