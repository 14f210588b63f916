"""metrics.jsonl: one line of JSON for every ``log_every``-th iteration."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wgan_fast.training.errors import UserError
from wgan_fast.training.run.durable import flush, replace_file

Record = dict[str, Any]


class MetricsLog:
    """Appends records to a file; ``resume_after`` drops the lines of iterations that will be run again.

    A file that cannot be written is a `UserError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def resume_after(self, iteration: int) -> None:
        """Keep only the lines up to this iteration, byte for byte, as one atomic replacement of the file."""
        kept = [line for line, record in _lines(self.path) if record["iteration"] <= iteration]
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, "".join(f"{line}\n" for line in kept))

    def append(self, record: Record) -> None:
        with self._explained(), self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Wait until the disk has every line, as it must before it has a checkpoint that follows them."""
        if self.path.is_file():
            with self._explained():
                flush(self.path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror})") from error


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl; empty without a file. Lines that a crash has cut or damaged are left out."""
    return [record for _, record in _lines(path)]


def _lines(path: Path) -> list[tuple[str, Record]]:
    found: list[tuple[str, Record]] = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("iteration"), int):
            found.append((line, record))
    return found
