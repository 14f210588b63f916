"""The one CSV schema of all benchmarks, and where the files lie."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
OF_THIS_PROCESSOR = RESULTS / torch.backends.cpu.get_cpu_capability().lower()
"""Figures of processors with AVX-512 and with AVX2 alone differ, and both are kept."""

# Names of providers: ours, and the copy of the same bytes, which shows what the memory allows.
OURS = "wgan_fast"
LIMIT = "copy"

Line = dict[str, str]


@dataclass(frozen=True)
class Row:
    """A line of the CSV. Times in microseconds; ``ratio`` is this provider's median over ours: how many times faster we
    are; ``fraction_of_limit`` is the median of the copy of the same bytes over this provider's, or the share of the
    machine's matrix rate where arithmetic is the limit; ``launches`` is how many kernels one call launches on a GPU, 0
    where that was not counted."""

    op: str
    provider: str
    workload: str
    bytes: int
    median: float
    p20: float
    p80: float
    ratio: float
    fraction_of_limit: float
    device: str
    versions: str
    date: str
    launches: int = 0


def write_csv(rows: Iterable[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")  # the writer may be killed: what was written before stays whole
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            numbers = {key: f"{value:.4g}" for key, value in asdict(row).items() if isinstance(value, float)}
            writer.writerow({**asdict(row), **numbers})
    unfinished.replace(path)


def read_lines(paths: Iterable[Path]) -> list[Line]:
    """The rows of these files as they are written, a text per column."""
    lines: list[Line] = []
    for path in paths:
        with path.open(newline="") as file:
            lines += csv.DictReader(file)
    return lines


def read_csv(path: Path) -> list[Row]:
    typed: dict[Any, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
    kinds = {column.name: typed[column.type] for column in fields(Row)}
    return [Row(**{name: kinds[name](text) for name, text in line.items()}) for line in read_lines([path])]
