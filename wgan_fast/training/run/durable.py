"""Files that survive a crash: on the disk before anything refers to them, and replaced as a whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def write_through(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: str) -> None:
    """Put ``content`` in the place of the file, or leave the file as it is: nothing in between, whatever happens."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        write_through(temporary, content.encode())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's entries."""
    with contextlib.suppress(PermissionError):  # folders cannot be opened on every system
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder that is visible as a whole or not at all: it is renamed to a hidden name first."""
    hidden = folder.with_name(f".{folder.name}-removed-{os.getpid()}")
    os.replace(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)
