"""Errors that a user can fix: a wrong option, an unusable file, an extra that is not installed."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType


class UserError(ValueError):
    """A user's mistake; its message is one line, suitable for the command line."""


class MissingPackage(UserError):
    """An optional package is not installed; the message says what needs it and how to install it."""


def require(module: str, purpose: str) -> ModuleType:
    """Import an optional package on first use.

    Args:
        module: dotted name of the module to import.
        purpose: what needs it, as the subject of a sentence ("drawing the curves").

    Raises:
        MissingPackage: it cannot be imported.
    """
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
        raise UserError(f"{what} cannot be written ({error.strerror})") from error


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The end of a message: "; did you mean X?" where a known word is close to this one, else nothing."""
    similar = difflib.get_close_matches(str(word), known, n=1, cutoff=0.65)
    return f"; did you mean {similar[0]}?" if similar else ""
