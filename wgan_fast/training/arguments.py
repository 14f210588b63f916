"""Dataclasses as arguments of the command line: in groups, with the default that an option left out will have.

The text of an option's help is the string below its field, as everywhere; what tyro would print as ``(default: None)``
is the value that None stands for.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from wgan_fast.training.config import Config, option, resolve
from wgan_fast.training.errors import UserError, require

GROUPS: dict[str, tuple[str, ...]] = {
    "data": ("data", "conditional", "image_size", "data_root"),
    "constraint": (
        "constraint",
        "clip_value",
        "lambda_gp",
        "gamma",
        "lambda_orthogonal",
        "orthogonal_form",
        "spectral_convolution",
        "loss",
    ),
    "networks": ("architecture", "width", "latent_dim", "critic_norm"),
    "optimization": (
        "iterations",
        "seed",
        "optimizer",
        "learning_rate",
        "betas",
        "lr_decay",
        "batch_size",
        "n_critic",
        "critic_burst",
        "ema_decay",
    ),
    "machine": ("device", "precision", "channels_last", "graph"),
}
"""The fields of `Config` in each group of ``--help``; what is in none of them is about the run's files."""

MATTERS_TO_CONSTRAINTS = {
    "clip_value": ("clip",),
    "lambda_gp": ("gp", "lp", "dragan"),
    "gamma": ("r1", "r2"),
    "lambda_orthogonal": ("orthogonal",),
    "orthogonal_form": ("orthogonal",),
    "spectral_convolution": ("spectral",),
}
MATTERS_TO_DATA = {"image_size": ("photos", "folder"), "data_root": ("mnist", "cifar10")}
"""The constraints and the data that an option means something to, where these are not all."""


def grouped_fields() -> dict[str, tuple[str, ...]]:
    """Every field of `Config`, by group."""
    named = {name for names in GROUPS.values() for name in names}
    rest = tuple(field.name for field in dataclasses.fields(Config) if field.name not in named)
    return {**GROUPS, "files": rest}


def config_groups(defaults: Config) -> dict[str, type]:
    """One dataclass for each group of options, whose defaults are the values of ``defaults``."""
    hints = _open_defaults(defaults)
    return {
        group: as_arguments(
            Config, names, defaults={name: getattr(defaults, name) for name in names}, hints=hints, name=group
        )
        for group, names in grouped_fields().items()
    }


def described(config: Config) -> dict[str, str]:
    """The options that mean something to this run, one text a group."""
    data = config.data.partition(":")[0]
    told: dict[str, str] = {}
    for group, names in grouped_fields().items():
        values = {name: getattr(config, name) for name in names}
        told[group] = ", ".join(
            f"{option(name)[2:]} {shown_value(value)}"
            for name, value in values.items()
            if value is not None
            and config.constraint in MATTERS_TO_CONSTRAINTS.get(name, (config.constraint,))
            and data in MATTERS_TO_DATA.get(name, (data,))
        )
    return told


def to_config(groups: Sequence[Any]) -> Config:
    """The config whose groups these are."""
    return Config(**{name: value for group in groups for name, value in vars(group).items()})


def as_arguments(
    kind: type,
    fields: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    hints: Mapping[str, str] | None = None,
    spellings: Mapping[str, str] | None = None,
    name: str | None = None,
) -> type:
    """A dataclass with (some of) the fields of another, annotated for tyro.

    Args:
        kind: the dataclass to read.
        fields: which of its fields; all by default.
        defaults: other defaults than its own.
        hints: what to print as the default, where a field's default stands for another value.
        spellings: names of options that are not their fields' names.
        name: of the new class, by default ``kind``'s.
    """
    tyro = require("tyro", "the command line")
    texts, types = field_texts(kind), get_type_hints(kind, include_extras=True)
    made: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(kind):
        if fields is not None and field.name not in fields:
            continue
        default = (defaults or {}).get(field.name, field.default)
        argument = tyro.conf.arg(
            name=(spellings or {}).get(field.name),
            help=texts.get(field.name, ""),
            metavar=_metavar(types[field.name]),
            help_behavior_hint=_hint(field.name, default, hints or {}),
        )
        made.append(
            (field.name, Annotated[types[field.name], argument], dataclasses.field())
            if default is dataclasses.MISSING
            else (field.name, Annotated[types[field.name], argument], dataclasses.field(default=default))
        )
    built = dataclasses.make_dataclass(name or kind.__name__, made)
    built.__doc__ = kind.__doc__ if name is None else ""
    return built


def field_texts(kind: type) -> dict[str, str]:
    """The string below each field, its lines joined."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            texts[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return texts


def _hint(name: str, default: Any, hints: Mapping[str, str]) -> str | None:
    if name in hints:
        return hints[name]
    return None if default is dataclasses.MISSING else f"(default: {shown_value(default)})"


def _metavar(hint: Any) -> str | None:
    """A choice of many is listed in its help, not in front of it; tyro has a word for the rest."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if get_origin(hint) is Literal or any(get_origin(kind) is Literal for kind in kinds):
        return "NAME"
    return "FLOAT FLOAT" if any(get_origin(kind) is tuple for kind in kinds) else None


def _open_defaults(defaults: Config) -> dict[str, str]:
    """What the options that ``defaults`` leaves open will be, where that can be said without reading data."""
    size = defaults.image_size
    shapes = {
        "digits": (1, 8, 8),
        "mnist": (1, 28, 28),
        "cifar10": (3, 32, 32),
        "photos": (3, size, size),
        "folder": (3, size, size),
        "8gaussians": (2,),
        "25gaussians": (2,),
        "swissroll": (2,),
    }
    open_fields = [field.name for field in dataclasses.fields(Config) if getattr(defaults, field.name) is None]
    shape = shapes.get(defaults.data.partition(":")[0])
    try:
        resolved = None if shape is None else resolve(defaults, shape, 2)
    except UserError:
        resolved = None
    if resolved is None:
        return dict.fromkeys(open_fields, "(default: by data and constraint)")
    values = {name: getattr(resolved, name) for name in open_fields}
    return {name: "" if value is None else f"(default: {shown_value(value)})" for name, value in values.items()}


def shown_value(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return " ".join(f"{part:g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
