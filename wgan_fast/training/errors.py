"""Errors that a user can fix: a wrong option, an unusable file, an extra that is not installed."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType


class UserError(ValueError):
    """A user's mistake, which any function of ``training`` and ``cli`` may raise; its message is one line that names
    the option or the file."""


class MissingPackage(UserError):
    """An optional package is not installed; the message says what needs it and how to install it."""


def require(module: str, purpose: str) -> ModuleType:
    """Import a module of an optional package on first use; ``purpose`` is what needs it ("drawing the curves")."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        extra = {"torchvision": "torchvision", "tensorboard": '"wgan-fast[tensorboard]"'}.get(
            package, '"wgan-fast[train]"'
        )
        raise MissingPackage(f"{purpose} needs {package}, which cannot be imported: pip install {extra}") from error


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Report an OSError as a `UserError`: that this cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} cannot be written ({error.strerror or error})") from error


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The end of a message: "; did you mean X?" where a known word is close to this one, else nothing."""
    similar = difflib.get_close_matches(str(word), known, n=1, cutoff=0.65)
    return f"; did you mean {similar[0]}?" if similar else ""
