"""metrics.jsonl: one line of JSON for every ``log_every``-th iteration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class MetricsLog:
    """Appends records to a file; ``resume_after`` drops the lines of iterations that will be run again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resume_after(self, iteration: int) -> None:
        """Keep only the records up to this iteration, as one atomic replacement of the file."""
        kept = [record for record in read_metrics(self.path) if record["iteration"] <= iteration]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(temporary, self.path)

    def append(self, record: Record) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl, without a last line cut short by a crash; empty without a file."""
    records: list[Record] = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
