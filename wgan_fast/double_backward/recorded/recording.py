"""Which critics consist of the functions in `functions`, and the record of a forward pass of one that does.

That is learnt in a critic's first pass, which is computed in the other ways. If a later pass is different (another mode
of the module, a branch, a hook), its record is given up, and the critic is called once more, in the other ways from
then on. A value that the critic leaves somewhere for its caller would have no graph: such a critic is not recorded.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wgan_fast.critic_modules import first_output
from wgan_fast.double_backward.one_pass import can_track
from wgan_fast.double_backward.recorded.calls import Call
from wgan_fast.double_backward.recorded.functions import CALLS, HARMLESS, Unrecorded
from wgan_fast.double_backward.shared_pass import reaches
from wgan_fast.dtypes import PLAIN_TYPES

Score = Callable[[list[Tensor]], Tensor]
"""From points to scores, by the critic."""

_known: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Whether each critic consists of such calls, once that is known."""


class Record(NamedTuple):
    """A forward pass.

    ``kept``: first the ``points``, then sides and what the calls keep. ``sides``: the places of those that require
    grad. ``result``: the number of the scores. ``aligned``: every value has one row per sample, and every sample one
    score. ``curved``: some call is. ``scale``: a power of two by which the signal is scaled on its way.
    """

    calls: list[Call]
    kept: list[Tensor]
    points: int
    sides: list[int]
    result: int
    aligned: bool
    curved: bool
    scores: Tensor | None = None
    scale: Tensor | None = None


def recorded(critic: Any, score: Score, points: list[Tensor]) -> Record | None:
    """The record of ``score(points)``; None for a critic, or a pass, that consists of other calls too."""
    if not _is_candidate(critic, points) or not _known.get(critic, False):
        return None
    recording = _Recording(points, learning=False)
    try:
        with recording:
            scores = score(points)
        record = recording.record(recording.numbers.get(id(scores)))
    except (Unrecorded, Exception):  # an error of the critic's own is raised again by the other ways
        record = None
    if record is None:
        _known[critic] = False
        return None
    return record._replace(scores=scores)


def watched(critic: Any, score: Score, points: list[Tensor]) -> Score:
    """``score``; the first pass of a critic also shows whether it consists of known calls."""
    if not _is_candidate(critic, points) or critic in _known:
        return score

    def watched_score(points: list[Tensor]) -> Tensor:
        with _Recording(points, learning=True) as recording:
            scores = score(points)
        with torch._C.DisableTorchFunction():  # other modes are active
            _known[critic] = recording.record(recording.numbers.get(id(scores))) is not None
        return scores

    return watched_score


def learn(
    critic: nn.Module, x: Tensor, critic_args: Sequence[Any] = (), critic_kwargs: Mapping[str, Any] | None = None
) -> bool:
    """Find out now, from a pass of a copy, whether a critic consists of known calls; its first step is then recorded.

    A run that continues another then computes the same bits as one that was not interrupted.
    """
    points = [x.detach().requires_grad_()]
    devices = [x.device] if x.is_cuda else []
    with contextlib.suppress(Exception), torch.random.fork_rng(devices), torch.enable_grad():  # what cannot be copied
        twin = copy.deepcopy(critic)
        score = partial(_first_output, twin, critic_args, critic_kwargs or {})
        watched(twin, score, points)(points)
        _known[critic] = _known[twin]
    return _known.get(critic, False)


def _first_output(critic: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], points: list[Tensor]) -> Tensor:
    return first_output(critic(points[0], *args, **kwargs))


def _is_candidate(critic: Any, points: list[Tensor]) -> bool:
    return isinstance(critic, nn.Module) and hasattr(Tensor, "_use_count") and can_track(points)


class _Recording(TorchFunctionMode):
    """Within this context calls on values are made without autograd and recorded; ``learning``: only looked at.

    Values are referred to weakly, except those that a call keeps, so that memory is freed when autograd would free it.
    While learning all are held, and the bases of views always, which live as long as these: in torch 2.9, C++ takes
    over a tensor that Python drops and C++ uses, and its references cannot be told from a caller's.
    """

    def __init__(self, points: list[Tensor], *, learning: bool) -> None:
        super().__init__()
        self.learning, self.failed = learning, False
        self.calls: list[Call] = []
        self.kept = list(points)
        self.sides: list[int] = []
        self.numbers = {id(point): number for number, point in enumerate(points)}
        self._values = [weakref.ref(point) for point in points]
        self._places = dict(self.numbers)  # of what is kept, by identity
        self._views: Counter[int] = Counter()  # of each value
        self._held: list[Tensor] = []
        self._aliased: set[int] = set(range(len(points)))
        self._aligned, self._batch, self._points = True, len(points[0]), len(points)
        self._dtype, self._device = points[0].dtype, points[0].device
        self._device_type = self._device.type

    # ---------------------------------------------------------------------------------------------- for the calls

    def side(self, tensor: Any) -> int:
        place = self._places.get(id(tensor))
        if place is None:
            plain = type(tensor) in PLAIN_TYPES and tensor.layout is torch.strided
            if not plain or tensor.dtype is not self._dtype or tensor.device != self._device:
                raise Unrecorded
            place = self.keep(tensor)
            if tensor.requires_grad:
                self.sides.append(place)
        if id(tensor) in self.numbers:
            raise Unrecorded
        return place

    def keep(self, tensor: Tensor) -> int:
        place = self._places.get(id(tensor))
        if place is None:
            place = self._places[id(tensor)] = len(self.kept)
            self.kept.append(tensor)
        return place

    # ------------------------------------------------------------------------------------------ during the forward pass

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.failed or not self._has_value(args, kwargs) or func in HARMLESS:
            return func(*args, **kwargs)
        try:
            call = self._understood(func, args, kwargs)
            if call is None:
                return args[0] if args else kwargs["input"]
            sources = [self._value(number) for number in call.sources]
            result = func(*args, **kwargs) if self.learning else self._made(call, sources)
        except Unrecorded:
            if not self.learning:
                raise
            self.failed = True
            return func(*args, **kwargs)
        if result is not sources[0] or call.in_place:  # else it was one, as a flattened vector is
            self._note(call, sources[0], result)
        return result

    def _has_value(self, args: Any, kwargs: Any) -> bool:
        numbers = self.numbers
        if args and id(args[0]) in numbers:  # nearly all calls on values
            return True
        for argument in (*args, *kwargs.values()):
            if id(argument) in numbers:
                return True
            if type(argument) in (tuple, list) and any(id(item) in numbers for item in argument):
                return True
        return False

    def _understood(self, func: Any, args: Any, kwargs: Any) -> Call | None:
        make = CALLS.get(func)
        if make is None or not torch.is_grad_enabled() or torch.is_autocast_enabled(self._device_type):
            raise Unrecorded
        try:
            call = make(self, *args, **kwargs)
        except Exception:  # arguments that are not known, or are wrong: then torch raises its own error
            raise Unrecorded from None
        # What is kept, and what shares memory, may not be overwritten.
        if call is not None and call.in_place:
            (source,) = call.sources
            if source in self._aliased or id(self._value(source)) in self._places:
                raise Unrecorded
        return call

    def _value(self, number: int) -> Tensor:
        value = self._values[number]()
        assert value is not None  # it is an argument of the call
        return value

    def _made(self, call: Call, sources: list[Tensor]) -> Tensor:
        torch._C._set_grad_enabled(False)
        try:
            result = call.forward(self.kept, *sources)
        except Exception:
            raise Unrecorded from None
        finally:
            torch._C._set_grad_enabled(True)
        # A leaf that requires grad: what is computed from it by a function that is not seen here has a graph.
        return result.requires_grad_()

    def _note(self, call: Call, source: Tensor, result: Tensor) -> None:
        number = call.result = len(self._values)
        self._values.append(weakref.ref(result, partial(_forget, self.numbers, id(result))))
        self.numbers[id(result)] = number
        base = result._base
        if base is not None:
            self._aliased.update((*call.sources, number))
            if id(base) in self.numbers:
                self._views[self.numbers[id(base)]] += 1
                self._held.append(base)
        if self.learning:
            self._held.append(result)
        self._aligned = self._aligned and result.dim() > 0 and result.size(0) == self._batch
        if call.sides:
            call.sides = tuple([place for place in call.sides if self.kept[place].requires_grad])
        call.kept = tuple([self.keep(tensor) for tensor in call.keep(source, result)])
        call.made = ()
        self.calls.append(call)

    # ------------------------------------------------------------------------------------------- after the forward pass

    def record(self, number: int | None) -> Record | None:
        """The record of a pass whose scores, which the caller refers to, have this number.

        None if there is none, or it is incomplete.
        """
        if self.failed or number is None or number < self._points or not self._is_closed(number):
            return None
        calls = self._calls_before(number)
        places: set[int] = set()
        for call in calls:
            call.first_use = tuple([place for place in call.kept if place not in places])
            places.update(call.kept)
        used = {place for call in calls for place in call.sides}
        sides = [place for place in self.sides if place in used]
        aligned = self._aligned and self._value(number).numel() == self._batch
        curved = any([call.curved for call in calls])
        return Record(calls, self.kept, self._points, sides, number, aligned, curved)

    def _calls_before(self, number: int) -> list[Call]:
        """Those that this value depends on."""
        needed = {number}
        places: set[int] = set()
        found: list[Call] = []
        for call in reversed(self.calls):
            if call.result in needed:
                call.last_of = tuple({source for source in call.sources if source not in needed})
                call.last_use = tuple([place for place in call.kept if place not in places])
                needed.update(call.sources)
                places.update(call.kept)
                found.append(call)
        return found[::-1]

    def _is_closed(self, scores: int) -> bool:
        """Whether nothing else refers to the values, or computes with them."""
        found = [value() for value in self._values[self._points :]]
        values = list({id(value): value for value in found if value is not None}.values())
        del found
        held = Counter(map(id, self._held))
        for value, references in zip(values, _references(values), strict=True):
            number, users = self.numbers[id(value)], value._use_count() - 1  # type: ignore[attr-defined]
            ours = held[id(value)] + (id(value) in self._places) + (number == scores)
            if references > _ALONE + _OF_USERS * (users > 0) + ours:
                return False
            # In the graph of a call that was not seen. While learning, all values are in autograd's.
            if not self.learning and users > self._views[number]:
                return False
        sides = [side for side in [self.kept[place] for place in self.sides] if side.grad_fn is not None]
        return not sides or not reaches(sides, self.kept[: self._points] + ([] if self.learning else values))


def _forget(numbers: dict[int, int], identity: int, reference: Any) -> None:
    """Another tensor may have the identity of a value that is no more."""
    numbers.pop(identity, None)


def _references(tensors: list[Tensor]) -> list[int]:
    return [sys.getrefcount(tensor) for tensor in tensors]


def _counted() -> tuple[int, int]:
    """References to a tensor that only one list refers to, and how many more if C++ uses it, as the base of a view."""
    tensors = [torch.empty(0)]
    (alone,) = _references(tensors)
    view = tensors[0].view(0)
    (used,) = _references(tensors)
    del view
    return alone, used - alone


_ALONE, _OF_USERS = _counted()
