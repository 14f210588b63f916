"""Scores and input gradients of one forward pass, with one backward signal for both where the critic allows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.rows import RULES
from wgan_fast.double_backward.shared_pass import SharedPass, current_pass, join
from wgan_fast.dtypes import PLAIN_TYPES

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
                    result = rule(self.shared, partial(self._call, func, types), *args, **kwargs)
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
        and all(type(x) in PLAIN_TYPES and x.layout == torch.strided and not x.is_meta for x in points)
        and all(x.dim() > 0 and len(x) > 0 for x in points)
        and len({len(x) for x in points}) == 1
    )


def scores_and_gradients(
    score: Callable[[list[Tensor]], Tensor],
    points: list[Tensor],
    inputs: list[Tensor],
    context: AbstractContextManager[Any],
    track: bool,
    *,
    scale_of: Callable[[Tensor], Tensor | None] = lambda scores: None,
    create_graph: bool = True,
) -> tuple[Tensor, list[Tensor | None]]:
    """Scores, and the gradients of their sum at the points, None where the scores do not depend on one.

    Args:
        score: the critic; its result has one number, or several, for each sample.
        points: where to score; each requires grad, and nothing else has been computed from it.
        inputs: what the points were made of, to which gradients continue where it requires grad.
        context: what the forward pass runs in.
        track: whether that is `exact_shortcut`, and the gradients may share a signal.
        scale_of: from scores to the power of two by which the signal is scaled on its way.
        create_graph: whether scores and gradients are to be differentiable together.
    """
    if not (track and isinstance(context, TorchFunctionMode) and can_track(points)):
        with context:
            scores = score(points)
        scale = scale_of(scores)
        return scores, _unscaled(_gradients(scores, points, scale, create_graph), scale)
    shared = SharedPass(len(points[0]), points[0])
    for point in points:
        shared.mark(point)
    with Tracking(shared, context):
        scores = score(points)
    shared.seed_scale = scale = scale_of(scores)
    if not shared.prove(scores, points):
        shared.ticket = None
    targets = points if shared.ticket is None else [*points, shared.ticket]
    shared.capturing = shared.proven
    try:
        found = _gradients(scores, targets, scale, create_graph)
    finally:
        shared.capturing = False
    gradients, tickets = _unscaled(found[: len(points)], scale), [t for t in found[len(points) :] if t is not None]
    if not tickets:
        shared.ticket = None
    used = [i for i, g in enumerate(gradients) if g is not None]
    present = [g for g in gradients if g is not None]
    if not shared.proven or not any(g.requires_grad for g in present):
        return scores, gradients
    ends = [inputs[i] for i in used]
    scores, *joined = join(shared, len(present), scores, *present, *ends, *tickets)
    for i, g in zip(used, joined, strict=True):
        gradients[i] = g
    return scores, gradients


def _gradients(
    scores: Tensor, targets: list[Tensor], scale: Tensor | None, create_graph: bool
) -> Sequence[Tensor | None]:
    signal = torch.ones_like(scores) if scale is None else torch.ones_like(scores) * scale
    return torch.autograd.grad(scores, targets, signal, create_graph=create_graph, allow_unused=True)


def _unscaled(gradients: Sequence[Tensor | None], scale: Tensor | None) -> list[Tensor | None]:
    return [g if g is None or scale is None else g / scale for g in gradients]
