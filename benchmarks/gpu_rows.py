"""What the GPU's benchmarks share: a CSV that grows job by job, where a failure costs the rows of its own job alone."""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from benchmarks.schema import Row, write_csv

Jobs = Iterable[tuple[str, Callable[[int], list[Row]]]]
"""Names, and what measures their rows in a number of rounds."""


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file; problems go beside it, as JSON")
    return parser


def measure_all(jobs: Jobs, rounds: int, csv: Path) -> None:
    rows: list[Row] = []
    problems = []
    for name, measured in jobs:
        try:
            fresh = measured(rounds)
        except Exception:
            problems.append(f"{name}: {traceback.format_exc(limit=3)}")
            csv.with_suffix(".problems.json").write_text(json.dumps(problems))
            continue
        rows += fresh
        write_csv(rows, csv)
        for row in fresh:
            launches = f", {row.launches} launches" if row.launches else ""
            print(f"{name}, {row.provider}: {row.median:.2f} us, {row.ratio:.2f}x ours{launches}", flush=True)
        torch.cuda.empty_cache()
