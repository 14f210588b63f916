"""What every benchmark shares: providers, verification, interleaved rounds, one command line.

A *case* is one operation on one workload with several *providers*: functions that do the same work, ours among them,
and, where memory is the limit, one that only moves the same bytes. Each provider first shows its result, which must
agree with the first provider's; then all are timed in turn, round after round, in a random order each round, so that
a slow moment of the machine hits all alike. Figures are medians over rounds with the 20th and 80th percentile.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import math
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import wgan_fast
from benchmarks.schema import LIMIT, OF_THIS_PROCESSOR, OURS, Row, read_csv, write_csv

# A timed block lasts about this long, so that the clock's resolution and the call of the timer do not matter.
BLOCK_SECONDS = 3e-4


@dataclass(frozen=True)
class Provider:
    """One way to do the work. ``result`` does it once on fresh input and returns what is compared; None: not compared
    (a plain copy). ``timed`` is what is measured; it does the work ``copies`` times."""

    timed: Callable[[], object]
    result: Callable[[], Sequence[Tensor]] | None
    copies: int = 1


@dataclass(frozen=True)
class Case:
    """One operation on one workload. ``bytes`` is the least traffic; the first provider is ours."""

    op: str
    workload: str
    bytes: int
    providers: dict[str, Provider]
    rtol: float = 0.0
    atol: float = 0.0
    notes: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def verify(case: Case) -> None:
    """Raise unless every provider's result agrees with ours."""
    expected = case.providers[OURS].result
    assert expected is not None
    wanted = [tensor.detach().clone() for tensor in expected()]
    for name, provider in case.providers.items():
        if provider.result is None:
            continue
        got = list(provider.result())
        if len(got) != len(wanted):
            raise AssertionError(f"{case.op} {case.workload}: {name} gives {len(got)} tensors, we {len(wanted)}")
        for mine, other in zip(wanted, got, strict=True):
            try:
                torch.testing.assert_close(other, mine, rtol=case.rtol, atol=case.atol, equal_nan=True)
            except AssertionError as error:
                raise AssertionError(f"{case.op} {case.workload}: {name} disagrees with {OURS}: {error}") from None


def clock(device: torch.device) -> Callable[[Callable[[], object], int], float]:
    """A function that runs ``timed`` n times and gives the seconds that one call took."""

    def on_cpu(timed: Callable[[], object], count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            timed()
        return (time.perf_counter() - start) / count

    def on_cuda(timed: Callable[[], object], count: int) -> float:
        # torch leaves the constructor without types.
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(count):
            timed()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1e3 / count

    return on_cuda if device.type == "cuda" else on_cpu


def measure(case: Case, rounds: int) -> list[Row]:
    """Verify, then time all providers of a case in interleaved rounds."""
    verify(case)
    run = clock(case.device)
    counts = {}
    for name, provider in case.providers.items():
        warm = min(run(provider.timed, 3) for _ in range(3))
        counts[name] = max(1, min(200, math.ceil(BLOCK_SECONDS / warm)))
    times: dict[str, list[float]] = {name: [] for name in case.providers}
    order = list(case.providers)
    shuffle = random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            provider = case.providers[name]
            times[name].append(run(provider.timed, counts[name]) / provider.copies * 1e6)
    ours = statistics.median(times[OURS])
    limit = statistics.median(times[LIMIT]) if LIMIT in times else math.nan
    rows = []
    for name, samples in times.items():
        median = statistics.median(samples)
        p20, *_, p80 = statistics.quantiles(samples, n=5)
        rows.append(
            Row(
                op=case.op,
                provider=name,
                workload=case.workload,
                bytes=case.bytes,
                median=median,
                p20=p20,
                p80=p80,
                ratio=median / ours,
                fraction_of_limit=limit / median,
                device=device_name(case.device),
                versions=versions(),
                date=datetime.date.today().isoformat(),
            )
        )
    return rows


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    widest = torch.backends.cpu.get_cpu_capability()
    return f"{model} ({widest}), {torch.get_num_threads()} threads"


def versions() -> str:
    return f"wgan_fast {wgan_fast.__version__}, torch {torch.__version__}, python {platform.python_version()}"


def copy_of(num_bytes: int, device: torch.device | None = None) -> Provider:
    """One ``copy_`` that moves as many bytes, reads and writes together, as the operation has to."""
    source = torch.ones(num_bytes // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return Provider(timed=lambda: target.copy_(source), result=None)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile as its users would call it for speed."""
    compiled_function: Callable[..., Any] = torch.compile(function, fullgraph=True)
    return compiled_function


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed instead of giving it back to the kernel.

    Otherwise tensors of megabytes cost a page fault for every 4 KB, now and then, for whichever provider happens to
    allocate next: noise of several hundred microseconds. Eager code allocates most, so this favours it.
    """
    if sys.platform == "linux":
        libc, trim_threshold, mmap_threshold = ctypes.CDLL(None), -1, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 30)


def main(name: str, cases: Callable[[], Iterable[Case]], keep_memory: bool = True) -> Path:
    """The command line of one benchmark: measure its cases, write its CSV, print the table made from it.

    Returns the folder of the results.
    """
    from benchmarks.report import print_table  # with rich, which a machine with a GPU need not have

    parser = argparse.ArgumentParser(description=f"Benchmark {name}; writes {name}.csv")
    parser.add_argument("--rounds", type=int, default=101, help="interleaved rounds of every case")
    parser.add_argument("--out", type=Path, default=OF_THIS_PROCESSOR, help="folder of the CSV file")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="workloads that contain TEXT; keeps the others' rows"
    )
    options = parser.parse_args()
    if keep_memory:
        keep_freed_memory()
    path = options.out / f"{name}.csv"
    rows: list[Row] = read_csv(path) if options.only and path.exists() else []
    for case in cases():
        if options.only in case.workload:
            fresh = measure(case, options.rounds)
            rows = [row for row in rows if (row.op, row.workload) != (case.op, case.workload)] + fresh
            write_csv(rows, path)  # after every case: compiling some of them takes minutes
    print_table([path])
    folder: Path = options.out
    return folder
