"""Files and folders that survive a crash: written through to the disk, replaced and removed atomically."""

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


def replace_file(path: Path, content: bytes) -> None:
    """Replace the file's content atomically."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        write_through(temporary, content)
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
    """Remove a folder atomically: it is renamed to a hidden name first."""
    hidden = folder.with_name(f".{folder.name}-removed-{os.getpid()}")
    os.replace(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)
