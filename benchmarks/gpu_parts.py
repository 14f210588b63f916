"""Parts of a long job under one budget of time: each in processes of its own, cut at its share, killed as a whole.

A part gets a share of the remaining time by its weight among the remaining parts, so later parts can use what one
leaves. A part whose share is below its minimum is not started, and is reported as "skipped".
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GRACE = 5.0
"""Seconds between asking a part to end and killing it; what it writes at its end, it writes then."""

Report = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """``work`` gets the seconds that it may take, and reports with "ok", or with "skipped" and the reason."""

    name: str
    weight: float
    least: float
    work: Callable[[float], Report]


def run_parts(parts: Sequence[Part], seconds: float, clock: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """The report of every part as it ends, with its name. An exception in one is its failure, and the next begins."""
    end = clock() + seconds
    for i, part in enumerate(parts):
        left = end - clock()
        share = left * part.weight / sum(other.weight for other in parts[i:])
        start = clock()
        if share < part.least:
            report: Report = {"ok": True, "skipped": f"no time left: {max(share, 0):.0f} s, needs {part.least:.0f}"}
        else:
            try:
                report = part.work(share)
            except Exception as error:
                report = {"ok": False, "output": [f"{type(error).__name__}: {error}"]}
        yield {"part": part.name, "seconds": round(clock() - start, 1), **report}


def run(command: Sequence[str], limit: float, log: Path, grace: float = GRACE, **environment: str) -> Report:
    """A command's outcome and the end of its output, which goes to ``log`` as it comes.

    After ``limit`` seconds its process group is terminated, and killed after a grace period; processes left running
    when it ends by itself are killed too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start, cut = time.monotonic(), False
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return {"ok": False, "exit_code": -1, "output": [str(error)]}
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            cut = True
            _signal(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        finally:  # also when this program is interrupted
            _signal(process.pid, signal.SIGKILL)
            process.wait()
    tail = log.read_text(errors="replace").strip().splitlines()[-60:]
    report: Report = {"ok": process.returncode == 0 and not cut, "exit_code": process.returncode}
    if cut:
        report["cut"] = f"stopped after {time.monotonic() - start:.0f} s"
        tail.append(report["cut"])
    return {**report, "output": tail}


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
