"""``--config run.yaml``: options of a run in a file, checked before anything is computed."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wgan_fast.training.config import Config
from wgan_fast.training.errors import UserError, require

OF_A_RUN = ("wgan_fast", "num_classes")
"""What a run's config.json holds besides its options."""


def read_config_file(path: Path) -> dict[str, Any]:
    """The options of a YAML or JSON file, a run's config.json among them: a map from names to values.

    Names are those of the command line without the dashes in front, ``n-critic`` or ``n_critic``. Numbers may be
    written as Python writes them: YAML itself takes 5e-5 for text.

    Raises:
        UserError: the file cannot be read, or holds something else; the message names the file and the key.
    """
    content = _parse(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: expected a map from options to values, found {content!r:.40}")
    hints = get_type_hints(Config)
    options: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name in OF_A_RUN:
            continue
        if name not in hints:
            similar = difflib.get_close_matches(name, hints, n=1)
            advice = f"; did you mean {similar[0]}?" if similar else ""
            raise UserError(f"--config {path}: {key} is not an option of a run{advice}")
        try:
            options[name] = _converted(value, hints[name])
        except ValueError as error:
            raise UserError(f"--config {path}: {key} must be {error}, found {value!r}") from None
    return options


def _parse(path: Path) -> Any:
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise UserError(f"--config {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: cannot be read ({error})") from error
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(f"--config {path}: is not JSON ({error})") from error
    yaml = require("yaml", "--config")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--config {path}: is not YAML ({' '.join(str(error).split())})") from error


def _converted(value: Any, hint: Any) -> Any:
    """The value as the field's type.

    Raises:
        ValueError: it is another; the message completes "must be ...".
    """
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if type(None) in get_args(hint):
        if value is None:
            return None
        hint = kinds[0] if len(kinds) == 1 else hint
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise ValueError(f"one of {', '.join(get_args(hint))}")
    if get_origin(hint) is tuple:
        if isinstance(value, list) and len(value) == len(get_args(hint)):
            return tuple(_converted(part, kind) for part, kind in zip(value, get_args(hint), strict=True))
        raise ValueError(f"a list of {len(get_args(hint))} numbers")
    if hint is bool:
        return _checked(value, isinstance(value, bool), "true or false")
    if hint is str:
        return _checked(value, isinstance(value, str), "text")
    number = _number(value, "an integer" if hint is int else "a number")
    if hint is int:
        return int(_checked(number, number == int(number), "an integer"))
    return number


def _checked(value: Any, right: bool, expected: str) -> Any:
    if not right:
        raise ValueError(expected)
    return value


def _number(value: Any, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(expected)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(expected) from None
    return _checked(number, number - number == 0, f"{expected} that is finite")  # type: ignore[no-any-return]
