"""Dataclass fields that are options: the text, type and checks that the command line, files and messages share."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from wgan_fast.training.errors import UserError, did_you_mean

Check = tuple[Callable[[Any], bool], str]
"""A condition on a value, and the text that completes "must be ..."."""
AT_LEAST_0: Check = (lambda value: value >= 0, "at least 0")
AT_LEAST_1: Check = (lambda value: value >= 1, "at least 1")
POSITIVE: Check = (lambda value: 0 < value < math.inf, "positive and finite")
NOT_NEGATIVE: Check = (lambda value: 0 <= value < math.inf, "finite and not negative")

LEFT_OUT: Any = ...
"""The default of an option that is chosen by the others."""


def option(
    default: Any,
    text: str,
    *,
    group: str | None = None,
    check: Check | None = None,
    only: tuple[str, ...] = (),
    resumable: bool = False,
    hidden: bool = False,
) -> Any:
    """A dataclass field that is an option.

    Args:
        default: its default; ``dataclasses.MISSING`` makes it a required positional argument.
        text: its help.
        group: heading in the help of this option and of those that follow it.
        check: what its value must satisfy.
        only: the name of another option and the values of that one with which this one has an effect; empty for always.
        resumable: whether a resumed run may be given another value.
        hidden: keep it off the command line.
    """
    metadata = {"text": text, "group": group, "check": check, "only": only, "resumable": resumable, "hidden": hidden}
    return dataclasses.field(default=default, metadata=metadata)


class Option(NamedTuple):
    """A field of a dataclass that `option` made: its name, its type without None, and what was passed."""

    name: str
    type: Any
    default: Any
    text: str
    group: str
    check: Check | None
    only: tuple[str, ...]
    resumable: bool
    hidden: bool

    def read(self, given: Any, spelled: str) -> Any:
        """What a command line, a file or a caller gives, as a value of the option's type that it may have; ``spelled``
        names it in the message."""
        if given is None and self.default is None:
            return None
        try:
            value = _converted(given, self.type)
        except ValueError as error:
            advice = "; leave it out for the default" if given is None else ""
            raise UserError(f"{spelled} must be {error}, got {given!r}{advice}") from None
        choices = get_args(self.type)
        if get_origin(self.type) is Literal and value not in choices:
            advice = did_you_mean(value, choices)
            raise UserError(f"{spelled} must be one of {', '.join(choices)}, got {value}{advice}")
        if self.check is not None and not self.check[0](value):
            raise UserError(f"{spelled} must be {self.check[1]}, got {value}")
        return value


@functools.cache
def options_of(kind: type) -> Mapping[str, Option]:
    """The options of a dataclass by name, in their order; a group goes on until the next one."""
    found: dict[str, Option] = {}
    types, group = get_type_hints(kind), "options"
    for field in dataclasses.fields(kind):
        hint, group = types[field.name], field.metadata["group"] or group
        if NoneType in get_args(hint):
            hint = get_args(hint)[0]
        found[field.name] = Option(field.name, hint, field.default, **{**field.metadata, "group": group})
    return found


def _converted(value: Any, hint: Any) -> Any:
    """The value as this type; the message of the ValueError for another completes "must be ..."."""
    if get_origin(hint) is Literal:
        on_or_off = isinstance(value, bool) and "on" in get_args(hint)  # what YAML makes of the bare words
        return ("on" if value else "off") if on_or_off else value
    if get_origin(hint) is tuple:
        kind, *others = get_args(hint)
        any_number = others == [...]
        with contextlib.suppress(ValueError):
            if isinstance(value, (list, tuple)) and (any_number or len(value) == 1 + len(others)):
                return tuple(_converted(part, kind) for part in value)
        raise ValueError("integers" if any_number else f"{1 + len(others)} numbers")
    if hint in (bool, str, Path):
        if not isinstance(value, bool if hint is bool else str):
            raise ValueError("true or false" if hint is bool else "text")
        if hint is Path and not value:
            raise ValueError("a path")  # Path("") is the current folder
        return hint(value)
    expected = "an integer" if hint is int else "a number"
    try:
        number = Decimal(str(value))  # exact, also for an integer that is not a float
    except ArithmeticError:
        raise ValueError(expected) from None
    if not math.isfinite(number):
        raise ValueError(f"{expected} that is finite")
    if isinstance(value, bool) or (hint is int and number != int(number)):
        raise ValueError(expected)
    if hint is int and not -(2**63) <= number < 2**63:  # torch's sizes and seeds
        raise ValueError("an integer of 64 bits")
    return hint(number)


def flag(name: str) -> str:
    """The command line's spelling of a field."""
    return "--" + name.strip("_").replace("_", "-")


def shown_value(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(f"{part:g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
