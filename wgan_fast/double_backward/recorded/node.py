"""Scores and input gradients as one node of autograd, for critics whose calls are all known.

The nodes of `exact_shortcut` and of `one_pass` are Python, one or two per layer, among those of autograd. A critic that
calls the functions in `functions` alone needs none of them: its forward pass is run without autograd and
recorded (`recording`), the input gradient is computed from the record, and so are the parameters' gradients when the
loss is differentiated. In the terms of `shared_pass`, with all calls piecewise linear,

    ∂L/∂W_l = Σ_b δ_l,b ⊗ (t_{l-1,b} + c_b a_{l-1,b}),    ∂L/∂b_l = Σ_b c_b δ_l,b.

Through a *curved* call y = f(x), a smooth activation or a norm, the loss depends on the values as well. Its gradients λ
with respect to them start from c at the scores, and gain ∂⟨δ_y, f'(x) t_x⟩/∂x at each such call; then

    ∂L/∂W_l = Σ_b δ_l,b ⊗ t_{l-1,b} + λ_l,b ⊗ a_{l-1,b},    ∂L/∂b_l = Σ_b λ_l,b.

The matrix work is that of the other ways; Python takes 0.7 to 0.8 of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from wgan_fast.double_backward.recorded.activations import LeakyReLU
from wgan_fast.double_backward.recorded.calls import Factors, Kept, OwnSignal
from wgan_fast.double_backward.recorded.recording import Record
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
        for call in record.calls:
            if call.keeps_signal and call.result in signals:
                call.signal = len(kept)
                kept.append(signals[call.result])
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
        ctx.maybe_clear_saved_tensors()  # unless the graph is retained
        reached = [wanted(node) for node, _ in ctx.next_functions]
        asked = {place for place, asked in zip(record.sides, reached[points:], strict=True) if asked}
        step = _Step(record, kept, asked, {point for point in range(points) if reached[point]})
        slopes = tuple(_divided(slope, scale) for slope in slopes)
        if record.aligned and not record.curved:
            step.along_tangents(slopes, _divided(c, scale))
            onward = [None if g is None else _per_sample(c, g) for g in gradients]
        else:
            step.along_tangents(slopes, None)
            onward = step.along_adjoints(c)
        found = step.found
        for place in asked & ctx.zeros - found.keys():
            found[place] = torch.zeros_like(kept[place])
        return None, None, *onward, *map(found.get, record.sides)


_node: Callable[..., tuple[Any, ...]] = _ScoresAndGradients.apply

_FREED = torch.empty(0)


class _Step:
    """The gradients of the sides, for what arrives at scores and input gradients.

    Args:
        kept: emptied on the way, as autograd frees what it has saved.
        asked: the places of the sides whose gradients are asked for.
        points: the numbers of the points whose gradients are.

    Attributes:
        found: the gradients, by place.
        adjoints: the loss's gradients with respect to values, by number, as far as they are known.
    """

    def __init__(self, record: Record, kept: list[Tensor], asked: set[int], points: set[int]) -> None:
        self.record, self.kept, self.asked, self.points = record, kept, asked, points
        self.found: dict[int, Tensor] = {}
        self.adjoints: dict[int, Tensor] = {}

    def along_tangents(self, slopes: Sequence[Tensor | None], c: Tensor | None) -> None:
        """For these slopes at the input gradients and, in the same products, c at the scores."""
        record, kept = self.record, self.kept
        tangents: dict[int, Tensor] = {}
        if any(slope is not None for slope in slopes):
            tangents = {i: torch.zeros_like(kept[i]) if t is None else t for i, t in enumerate(slopes)}
        elif c is None:
            return
        factors = Factors(kept, self.asked, tangents, c)
        once = record.aligned and not record.curved  # nothing is needed afterwards
        free: set[int] = set()  # whose tangents may be overwritten
        end = self._last_call_of_use()
        for i, call in enumerate(record.calls[: end + 1]):
            if call.signal >= 0:
                self._add(call.gradients(kept, kept[call.signal], factors))
            if tangents and (i < end or call.curved):
                given = [tangents[source] for source in call.sources]
                if isinstance(call, LeakyReLU):
                    result = call.times_slope(kept, *given, overwrite=not free.isdisjoint(call.last_of))
                elif call.curved:
                    result, at, adjoint, gradients = call.second_order(kept, given[0], self.asked)
                    self._add_adjoint(at, adjoint)
                    self._add(gradients)
                else:
                    result = call.tangent(kept, *given)
                tangents[call.result] = result
                if call.fresh:
                    free.add(call.result)
                else:  # the result may be the source's tangent itself
                    free.difference_update(call.sources)
                for source in call.last_of:
                    del tangents[source]
            self._free(*(call.last_use if once else ()), call.signal)

    def along_adjoints(self, c: Tensor | None) -> list[Tensor | None]:
        """For c at the scores and what curved calls have added; returns the points' gradients."""
        record, kept, adjoints = self.record, self.kept, self.adjoints
        if c is not None:
            self._add_adjoint(record.result, c)
        factors, useful = OwnSignal(kept, self.asked), self._useful()
        for call in reversed(record.calls):
            signal = adjoints.pop(call.result, None)
            if signal is not None:
                through = not useful.isdisjoint(call.sources)
                signals, gradients = call.adjoint(kept, signal, factors, through)
                self._add(gradients)
                for source, adjoint in zip(call.sources, signals, strict=False):
                    self._add_adjoint(source, adjoint)
            self._free(*call.first_use)
        return [adjoints.get(point) if point in self.points else None for point in range(record.points)]

    def _last_call_of_use(self) -> int:
        """After it no tangent is needed: no side has a gradient there, and nothing is curved."""
        calls = enumerate(self.record.calls)
        return max((i for i, call in calls if call.curved or not self.asked.isdisjoint(call.sides)), default=-1)

    def _useful(self) -> set[int]:
        """The numbers of the values through which adjoints reach something that is asked for."""
        useful = set(self.points)
        for call in self.record.calls:
            if not useful.isdisjoint(call.sources) or not self.asked.isdisjoint(call.sides):
                useful.add(call.result)
        return useful

    def _add(self, gradients: Iterable[tuple[int, Tensor | None]]) -> None:
        for place, gradient in gradients:
            if gradient is not None:
                known = self.found.get(place)
                self.found[place] = gradient if known is None else known.add_(gradient)

    def _add_adjoint(self, number: int, adjoint: Tensor) -> None:
        known = self.adjoints.get(number)
        self.adjoints[number] = adjoint if known is None else known + adjoint

    def _free(self, *places: int) -> None:
        for place in places:
            if place >= self.record.points:  # whose shapes may be needed
                self.kept[place] = _FREED


def _signals(record: Record, kept: Kept, seed: Tensor) -> dict[int, Tensor]:
    """The signals of the points, and of the results of the calls that keep them, by number."""
    signals = {record.result: seed}
    free: set[int] = set()  # whose signals may be overwritten
    for call in reversed(record.calls):
        signal = signals.get(call.result) if call.keeps_signal else signals.pop(call.result, None)
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
    """The places of the sides that something follows whose second derivative autograd computes, if only as zeros."""
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
        call.made = ()
    scores = values[record.result]
    found = torch.autograd.grad(scores, points, _seed(scores, record.scale), create_graph=True, allow_unused=True)
    outputs = [(scores, c), *((_divided(g, record.scale), slope) for g, slope in zip(found, slopes, strict=True))]
    present = [(y, grad) for y, grad in outputs if y is not None and grad is not None and y.requires_grad]
    targets = [*(x for x in inputs if x is not None), *(kept[place] for place in record.sides)]
    ends, grads = [y for y, _ in present], [grad for _, grad in present]
    gradients = iter(torch.autograd.grad(ends, targets, grads, create_graph=True, allow_unused=True))
    return [None if x is None else next(gradients) for x in inputs] + list(gradients)


def _per_sample(c: Tensor | None, g: Tensor) -> Tensor:
    """c g; zeros for no c."""
    return torch.zeros_like(g) if c is None else c.reshape(-1, *[1] * (g.dim() - 1)) * g


def _seed(scores: Tensor, scale: Tensor | None) -> Tensor:
    seed = torch.ones_like(scores)
    return seed if scale is None else seed * scale


def _divided(value: Tensor | None, scale: Tensor | None) -> Tensor | None:
    return value if value is None or scale is None else value / scale
