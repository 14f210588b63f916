"""Scores and input gradients of one forward pass, with one backward signal for both where the critic allows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.rows import RULES
from wgan_fast.double_backward.shared_pass import PLAIN_TYPES, SharedPass, current_pass, join

_T: Any = Tensor
OBSERVERS = frozenset({_T.register_hook, _T.retain_grad, _T.grad_fn.__get__})


class Tracking(TorchFunctionMode):
    """Within this context, calls that `rows` knows mark their results, and parameters enter through `entries`.

    ``shortcut`` is the mode of `exact_shortcut`, which makes all calls; it is not entered, because it would then
    intercept each query that a rule makes of a tensor.
    """

    def __init__(self, shared: SharedPass, shortcut: TorchFunctionMode) -> None:
        super().__init__()
        self.shared = shared
        self.shortcut = shortcut

    def __enter__(self) -> Tracking:
        self._token = current_pass.set(self.shared)
        super().__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        current_pass.reset(self._token)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = RULES.get(func)
        if rule is not None:
            if torch.is_grad_enabled():
                try:
                    result = rule(self.shared, partial(self._call, func, types), args, kwargs)
                except TypeError:  # invalid arguments: the function raises its own error
                    result = NotImplemented
                if result is not NotImplemented:
                    return result
        elif func in OBSERVERS:
            self.shared.observed = True
        return self._call(func, types, *args, **kwargs)

    def _call(self, func: Any, types: Any, *args: Any, **kwargs: Any) -> Any:
        return self.shortcut.__torch_function__(func, types, args, kwargs)


def foreign_mode() -> bool:
    """Whether another function mode is active, which could change what a call means."""
    if torch.compiler.is_compiling():
        return False
    modes = torch.overrides._get_current_function_mode_stack()
    return not all(type(mode) is DeviceContext or type(mode).__module__.startswith("wgan_fast.") for mode in modes)


def can_track(points: list[Tensor]) -> bool:
    """Whether a forward pass from these points may be tracked at all."""
    return (
        plain_autograd()
        and not foreign_mode()
        and all(type(x) in PLAIN_TYPES and x.layout == torch.strided and x.dim() > 0 and len(x) > 0 for x in points)
        and len({len(x) for x in points}) == 1
    )


def scores_and_gradients(
    score: Callable[[list[Tensor]], Tensor],
    points: list[Tensor],
    seed: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    inputs: list[Tensor],
    context: AbstractContextManager[Any],
    track: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Scores, and the gradients of their sum, differentiable together.

    Args:
        score: the critic; its result has one number, or several, for each sample.
        points: where to score; each requires grad, and nothing else has been computed from it.
        seed: from scores to what the gradients are taken with, and the power of two by which that is scaled.
        inputs: what the points were made of, to which gradients continue where it requires grad.
        context: what the forward pass runs in.
        track: whether that is `exact_shortcut`, and the gradients may share a signal.
    """
    if not (track and isinstance(context, TorchFunctionMode) and can_track(points)):
        with context:
            scores = score(points)
        return scores, _gradients(scores, points, seed)[0]
    shared = SharedPass(len(points[0]), points[0])
    for point in points:
        shared.mark(point)
    with Tracking(shared, context):
        scores = score(points)
    shared.prove(scores, points)
    gradients, ticket = _gradients(scores, points, seed, shared)
    found = [i for i, g in enumerate(gradients) if g is not None]
    used = [g for g in gradients if g is not None]
    if not any(g.requires_grad for g in used):
        return scores, gradients
    ends = [inputs[i] for i in found] if shared.proven else []
    scores, *joined = join(shared, len(used), scores, *used, *ends, *([] if ticket is None else [ticket]))
    for i, g in zip(found, joined, strict=True):
        gradients[i] = g
    return scores, gradients


def _gradients(
    scores: Tensor,
    points: list[Tensor],
    seed: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    shared: SharedPass | None = None,
) -> tuple[list[Tensor | None], Tensor | None]:
    """The gradients at the points, None where the scores do not depend on one; the ticket's gradient."""
    signal, scale = seed(scores)
    targets = list(points)
    if shared is not None:
        shared.seed_scale, shared.capturing = scale, shared.proven
        if not shared.proven:
            shared.ticket = None
        elif shared.ticket is not None:
            targets.append(shared.ticket)
    try:
        gradients = list(torch.autograd.grad(scores, targets, signal, create_graph=True, allow_unused=True))
    finally:
        if shared is not None:
            shared.capturing = False
    ticket = gradients.pop() if len(gradients) > len(points) else None
    if shared is not None and ticket is None:
        shared.ticket = None
    return [g if g is None or scale is None else g / scale for g in gradients], ticket
