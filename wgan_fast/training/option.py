"""Dataclass fields that are options: the text, type and checks that the command line, files and messages share."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

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


def grouped(kind: type) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """The options of a dataclass that are on the command line, each after its group."""
    group = "options"
    for field in dataclasses.fields(kind):
        group = field.metadata["group"] or group
        if not field.metadata["hidden"]:
            yield group, field


def check_each(kind: type, values: Mapping[str, Any], spelled: Callable[[str], str]) -> None:
    """Check values of a dataclass by the choices and checks of its options; ``spelled`` names one in a message."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in values.items():
        name, hint, check = spelled(key), type_of(kind, key), fields[key].metadata["check"]
        if value is None:
            if fields[key].default is None:
                continue
            raise UserError(f"{name} cannot be None; leave it out for the default")
        if get_origin(hint) is Literal and value not in get_args(hint):
            advice = did_you_mean(value, get_args(hint))
            raise UserError(f"{name} must be one of {', '.join(get_args(hint))}, got {value}{advice}")
        if check is not None and not check[0](value):
            raise UserError(f"{name} must be {check[1]}, got {value}")


def as_values(kind: type, given: Mapping[str, Any], spelled: Callable[[str], str]) -> dict[str, Any]:
    """Arguments of the command line, or values of a file, as checked values of a dataclass of options."""
    values = {}
    for name, value in given.items():
        try:
            values[name] = _converted(value, type_of(kind, name))
        except ValueError as error:
            raise UserError(f"{spelled(name)} must be {error}, got {value!r}") from None
    check_each(kind, values, spelled)
    return values


@functools.cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def type_of(kind: type, name: str) -> Any:
    """The type of a field, without None."""
    hint = _types(kind)[name]
    return next(part for part in get_args(hint) if part is not NoneType) if NoneType in get_args(hint) else hint


def _converted(value: Any, hint: Any) -> Any:
    """The value as this type; the message of the ValueError for another completes "must be ..."."""
    if get_origin(hint) is Literal:
        return value
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        try:
            parts = value if isinstance(value, list) else []
            return tuple(_converted(part, kind) for part, kind in zip(parts, kinds, strict=True))
        except ValueError:
            raise ValueError(f"{len(kinds)} numbers") from None
    simple = {bool: (bool, "true or false"), str: (str, "text"), Path: (str, "text")}
    if hint in simple:
        kind, expected = simple[hint]
        if not isinstance(value, kind):
            raise ValueError(expected)
        return hint(value)
    expected = "an integer" if hint is int else "a number"
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError):
        raise ValueError(expected) from None
    if not math.isfinite(number) or (hint is int and number != int(number)):
        raise ValueError(expected if isinstance(value, bool) or math.isfinite(number) else f"{expected} that is finite")
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
