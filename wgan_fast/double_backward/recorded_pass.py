"""Scores and input gradients as one node of autograd, for critics whose calls are all known.

The nodes of `exact_shortcut` and of `one_pass` are Python, one or two per layer, among those of autograd. A critic that
consists of the calls in `recorded_calls` needs none of them: its forward pass is run without autograd and recorded
(`recording`), the input gradient is computed from the record, and so are the parameters' gradients when the loss is
differentiated. In the terms of `shared_pass`,

    ∂L/∂W_l = Σ_b δ_l,b ⊗ (t_{l-1,b} + c_b a_{l-1,b}),    ∂L/∂b_l = Σ_b c_b δ_l,b.

The matrix work is the same, in a third of the Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wgan_fast.double_backward.recorded_calls import Factors, Kept, LeakyReLU, OwnSignal
from wgan_fast.double_backward.recording import Record
from wgan_fast.double_backward.zero_gradients import wanted


def scores_and_gradients(
    record: Record, inputs: Sequence[Tensor], *, scores_used: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """Scores, and the gradients of their sum at the points, None where the scores do not depend on one.

    Args:
        record: of the forward pass.
        inputs: what the points were made of, to which gradients continue where it requires grad.
        scores_used: whether the scores may enter the loss: each parameter then has a gradient, zeros if need be.
    """
    sides = [record.kept[place] for place in record.sides]
    scores, *gradients = _node(record, scores_used, *inputs, *sides)
    return scores, gradients


class _ScoresAndGradients(Function):
    @staticmethod
    def forward(ctx: Any, record: Record, scores_used: bool, *tensors: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        kept, scores, inputs = record.kept, record.scores, tensors[: record.points]
        assert scores is not None
        signals = _signals(record, kept, _seed(scores, record.scale))
        gradients = [_divided(signals.get(point), record.scale) for point in range(record.points)]
        later: set[int] = set(range(record.points))
        for call in reversed(record.calls):
            if call.sides and call.result in signals:
                call.signal = len(kept)
                kept.append(signals[call.result])
            call.last_use = tuple([place for place in (call.kept, call.signal) if place >= 0 and place not in later])
            later.update(call.last_use)
        ctx.record, ctx.size = record._replace(kept=[], scores=None), len(kept)
        ctx.zeros = set(record.sides) if scores_used else _before_kinks(record)
        further = [(x, g) if x.requires_grad else (None, None) for x, g in zip(inputs, gradients, strict=True)]
        ctx.save_for_backward(*kept, *(x for x, _ in further), *(g for _, g in further))
        return scores.detach(), *gradients

    @staticmethod
    def backward(ctx: Any, c: Tensor | None, *slopes: Tensor | None) -> Any:
        record: Record = ctx.record
        points, scale = record.points, record.scale
        if c is None and all(slope is None for slope in slopes):
            return (None,) * (2 + points + len(record.sides))
        saved = list(ctx.saved_tensors)
        kept, inputs, gradients = saved[: ctx.size], saved[ctx.size : -points], saved[-points:]
        del saved
        if torch.is_grad_enabled():
            return None, None, *_by_autograd(record, kept, inputs, c, slopes)
        reached = [wanted(node) for node, _ in ctx.next_functions]
        asked = {place for place, asked in zip(record.sides, reached[points:], strict=True) if asked}
        found: dict[int, Tensor] = {}
        one_signal = None if c is None or not record.aligned else c
        if scale is not None:
            slopes, one_signal = tuple(_divided(slope, scale) for slope in slopes), _divided(one_signal, scale)
        if c is None or record.aligned:
            ctx.maybe_clear_saved_tensors()  # unless the graph is retained
            _along_one_signal(record, kept, asked, slopes, one_signal, found, last=True)
            onward = [None if g is None else _per_sample(c, g) for g in gradients]
        else:
            _along_one_signal(record, kept, asked, slopes, one_signal, found)
            onward = _along_its_own(record, kept, asked, c, found)
        for place in asked & ctx.zeros - found.keys():
            found[place] = torch.zeros_like(kept[place])
        to_points = [g if wanted else None for g, wanted in zip(onward, reached, strict=False)]
        return None, None, *to_points, *map(found.get, record.sides)


_FREED = torch.empty(0)

_node: Callable[..., tuple[Any, ...]] = _ScoresAndGradients.apply


def _along_one_signal(
    record: Record,
    kept: list[Tensor],
    asked: set[int],
    slopes: Sequence[Tensor | None],
    c: Tensor | None,
    found: dict[int, Tensor],
    *,
    last: bool = False,
) -> None:
    """Add the sides' gradients for these slopes at the input gradients, and c at the scores.

    ``last``: what is kept is not needed afterwards, and freed as soon as it can be, as autograd does.
    """
    tangents: dict[int, Tensor] = {}
    if any(slope is not None for slope in slopes):
        tangents = {i: torch.zeros_like(kept[i]) if t is None else t for i, t in enumerate(slopes)}
    elif c is None:
        return
    factors = Factors(kept, asked, tangents, c)
    free: set[int] = set()  # whose tangents may be overwritten
    end = max((i for i, call in enumerate(record.calls) if not asked.isdisjoint(call.sides)), default=-1)
    for i, call in enumerate(record.calls[: end + 1]):
        if call.signal >= 0:
            _add(found, call.gradients(kept, kept[call.signal], factors))
        if tangents and i < end:
            given = [tangents[source] for source in call.sources]
            if isinstance(call, LeakyReLU):
                tangents[call.result] = call.times_slope(kept, *given, overwrite=not free.isdisjoint(call.last_of))
            else:
                tangents[call.result] = call.tangent(kept, *given)
            if call.fresh:
                free.add(call.result)
            for source in call.last_of:
                del tangents[source]
        if last:
            for place in call.last_use:
                kept[place] = _FREED


def _along_its_own(
    record: Record, kept: Kept, asked: set[int], c: Tensor, found: dict[int, Tensor]
) -> list[Tensor | None]:
    """The same for c alone, whose numbers do not belong to one sample each; returns the points' gradients."""
    signals, factors = _signals(record, kept, c), OwnSignal(kept, asked)
    for call in record.calls:
        if call.signal >= 0:
            _add(found, call.gradients(kept, signals[call.result], factors))
    return [signals.get(point) for point in range(record.points)]


def _signals(record: Record, kept: Kept, seed: Tensor) -> dict[int, Tensor]:
    """The signals of the points, and of the results of calls with sides, by number."""
    signals = {record.result: seed}
    free: set[int] = set()  # whose signals may be overwritten
    for call in reversed(record.calls):
        signal = signals.get(call.result) if call.sides else signals.pop(call.result, None)
        if signal is None:
            continue
        if isinstance(call, LeakyReLU):
            results: tuple[Tensor, ...] = (call.times_slope(kept, signal, overwrite=call.result in free),)
        else:
            results = call.backward(kept, signal)
        for source, through in zip(call.sources, results, strict=True):
            known = signals.get(source)
            signals[source] = through if known is None else known + through
            if call.fresh or known is not None:
                free.add(source)
    return signals


def _before_kinks(record: Record) -> set[int]:
    """The places of the sides that something follows whose second derivative autograd computes, as zeros."""
    values: set[int] = set()
    places: set[int] = set()
    for call in reversed(record.calls):
        if call.result in values:
            places.update(call.sides)
        if call.kinked or call.result in values:
            values.update(call.sources)
    return places


def _by_autograd(
    record: Record,
    kept: Kept,
    inputs: Sequence[Tensor | None],
    c: Tensor | None,
    slopes: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients of inputs and sides with a graph: the calls are made again, with autograd."""
    points = [kept[i].detach().requires_grad_() if x is None else x for i, x in enumerate(inputs)]
    values = dict(enumerate(points))
    for call in record.calls:
        values[call.result] = call.forward(kept, *[values[source] for source in call.sources])
    scores = values[record.result]
    found = torch.autograd.grad(scores, points, _seed(scores, record.scale), create_graph=True, allow_unused=True)
    outputs = [(scores, c), *((_divided(g, record.scale), slope) for g, slope in zip(found, slopes, strict=True))]
    present = [(y, grad) for y, grad in outputs if y is not None and grad is not None and y.requires_grad]
    targets = [*(x for x in inputs if x is not None), *(kept[place] for place in record.sides)]
    ends, grads = [y for y, _ in present], [grad for _, grad in present]
    gradients = iter(torch.autograd.grad(ends, targets, grads, create_graph=True, allow_unused=True))
    return [None if x is None else next(gradients) for x in inputs] + list(gradients)


def _add(found: dict[int, Tensor], gradients: Iterable[tuple[int, Tensor | None]]) -> None:
    for place, gradient in gradients:
        if gradient is not None:
            found[place] = found[place] + gradient if place in found else gradient


def _per_sample(c: Tensor | None, g: Tensor) -> Tensor:
    """c g; zeros for no c."""
    return torch.zeros_like(g) if c is None else c.reshape(-1, *[1] * (g.dim() - 1)) * g


def _seed(scores: Tensor, scale: Tensor | None) -> Tensor:
    seed = torch.ones_like(scores)
    return seed if scale is None else seed * scale


def _divided(value: Tensor | None, scale: Tensor | None) -> Tensor | None:
    return value if value is None or scale is None else value / scale
