"""What every benchmark shares: providers, verification, interleaved rounds, one command line.

A *case* is one operation on one workload with several *providers*: functions that do the same work, ours among them,
and, where memory is the limit, one that only moves the same bytes. Each provider first shows its result, which must
agree with ours in the norm of the difference; then all are timed in turn, round after round, in a random order each
round, so that a slow moment of the machine hits all alike. Figures are medians over rounds with the 20th and 80th
percentile.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import wgan_fast
from benchmarks.schema import LIMIT, OF_THIS_PROCESSOR, OURS, Row, read_csv, write_csv

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Of the benchmarks that run on either."""
# A timed block lasts about this long, so that the clock's resolution and the call of the timer do not matter.
BLOCK_SECONDS = 3e-4
# A result that cancels, such as the gradient of a bias before a norm, is rounding alone: this share of the norm of all
# results counts as its own.
CANCELLED = 1e-2
# Of whole steps: the convolutions of a GPU round what they multiply to 10 bits (TF32). In fp32 the CPU's differ by up
# to 1e-4.
STEP_TOLERANCE = 1e-2 if DEVICE.type == "cuda" else 1e-3

Step = Callable[[], tuple[Tensor, ...]]
"""Returns the loss and the gradients of all parameters."""


@dataclass(frozen=True)
class Provider:
    """One way to do the work. ``result`` does it once on fresh input and returns what is compared; None: not compared
    (a plain copy). ``timed`` is what is measured; it does the work ``copies`` times."""

    timed: Callable[[], object]
    result: Callable[[], Sequence[Tensor]] | None
    copies: int = 1


@dataclass(frozen=True)
class Case:
    """One operation on one workload. ``bytes`` is the least traffic, 0 where arithmetic is the limit; ``tolerance`` is
    how far a result may be from ours, relative to its norm."""

    op: str
    workload: str
    bytes: int
    providers: dict[str, Provider]
    tolerance: float = 0.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def norm(*tensors: Tensor) -> float:
    """Of all values together, accumulated in double precision."""
    return math.hypot(*(float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in tensors))


def verify(case: Case) -> None:
    """Raise unless every provider's result agrees with ours.

    Single values are not compared: where an activation has a kink, rounding may put one on either side of it.
    """
    expected = case.providers[OURS].result
    assert expected is not None
    wanted = [tensor.detach().clone() for tensor in expected()]
    cancelled = CANCELLED * norm(*wanted)
    for name, provider in case.providers.items():
        if provider.result is None:
            continue
        got = list(provider.result())
        if len(got) != len(wanted):
            raise AssertionError(f"{case.op} {case.workload}: {name} gives {len(got)} tensors, we {len(wanted)}")
        for mine, other in zip(wanted, got, strict=True):
            difference = norm(other.detach() - mine) if other.shape == mine.shape else math.inf
            allowed = case.tolerance * (norm(mine) + cancelled)
            if not difference <= allowed:
                raise AssertionError(
                    f"{case.op} {case.workload}: {name} disagrees with {OURS}: {tuple(other.shape)} and "
                    f"{tuple(mine.shape)}, the difference has norm {difference:.3g}, {allowed:.3g} is allowed"
                )


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


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

    def block(provider: Provider) -> Callable[[], float]:
        warm = min(run(provider.timed, 3) for _ in range(3))
        count = max(1, min(200, math.ceil(BLOCK_SECONDS / warm)))
        return lambda: run(provider.timed, count) / provider.copies

    times = interleaved({name: block(provider) for name, provider in case.providers.items()}, rounds)
    limit = statistics.median(times[LIMIT]) if LIMIT in times else math.nan
    limits = dict.fromkeys(times, limit)
    return rows_of(case.op, case.workload, case.bytes, times, limits, device_name(case.device))


def interleaved(blocks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What every block measures, round after round, in the same random order for the same names."""
    measured: dict[str, list[float]] = {name: [] for name in blocks}
    order, shuffle = list(blocks), random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            measured[name].append(blocks[name]())
    return measured


def rows_of(
    op: str,
    workload: str,
    num_bytes: int,
    times: Mapping[str, Sequence[float]],
    limits: Mapping[str, float],
    device: str,
) -> list[Row]:
    """The rows of the providers in ``limits``, the seconds that none can beat, or NaN; ``times`` are in seconds."""
    medians = {name: statistics.median(samples) for name, samples in times.items()}
    rows = []
    for name, limit in limits.items():
        p20, *_, p80 = statistics.quantiles(times[name], n=5)
        rows.append(
            Row(
                op=op,
                provider=name,
                workload=workload,
                bytes=num_bytes,
                median=medians[name] * 1e6,
                p20=p20 * 1e6,
                p80=p80 * 1e6,
                ratio=medians[name] / medians[OURS],
                fraction_of_limit=limit / medians[name],
                device=device,
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


def double_backward_case(
    op: str,
    workload: str,
    ours: Callable[[], Sequence[Tensor]],
    dx: Tensor,
    leaves: Sequence[Tensor],
    v: Tensor,
    others: Mapping[str, Provider] = MappingProxyType({}),
) -> Case:
    """Ours against autograd's chain from ``dx``, an input gradient with a graph, to its ``leaves``; and a copy of the
    same bytes, three tensors read and two written."""

    def chain() -> tuple[Tensor, ...]:
        return torch.autograd.grad(dx, leaves, v, retain_graph=True)

    num_bytes = 5 * v.numel() * v.element_size()
    providers = {OURS: Provider(ours, ours), "autograd's chain": Provider(chain, chain), **others}
    providers[LIMIT] = copy_of(num_bytes, v.device)
    return Case(op, workload, num_bytes, providers, tolerance=1e-4, device=v.device)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile as its users would call it for speed."""
    compiled_function: Callable[..., Any] = torch.compile(function, fullgraph=True)
    return compiled_function


def by_backward(critic: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """A critic's step as it is written: the loss and the parameters' gradients, by ``backward()``."""

    def step() -> tuple[Tensor, ...]:
        critic.zero_grad()
        value = loss()
        value.backward()
        return value.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters())

    return step


def by_grad(critic: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """The same without gradients at the points, in the form that torch.compile takes: it has no ``backward()``."""

    def step() -> tuple[Tensor, ...]:
        value = loss()
        parameters = list(critic.parameters())
        return value.detach(), *torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)

    return step


def step_case(
    op: str,
    workload: str,
    critic: nn.Module,
    losses: Mapping[str, Callable[[], Tensor]],
    usual: str,
    form: Callable[[nn.Module, Callable[[], Tensor]], Step] = by_backward,
    compiled_name: str = "torch.compile of the step",
) -> Case:
    """A critic's step by every loss, in one ``form``; and by the ``usual`` one, with its inner gradient, compiled."""
    torch._dynamo.reset()
    steps = {name: form(critic, loss) for name, loss in losses.items()}
    if hasattr(torch._dynamo.config, "trace_autograd_ops"):
        torch._dynamo.config.trace_autograd_ops = True
        steps[compiled_name] = compiled(by_grad(critic, losses[usual]))
    else:
        print(f"{workload}: {compiled_name} is left out: torch {torch.__version__} has no trace_autograd_ops")
    # No bytes: bound by arithmetic, so there is no copy to compare with.
    return Case(op, workload, 0, {name: Provider(step, step) for name, step in steps.items()}, STEP_TOLERANCE, DEVICE)


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed instead of giving it back to the kernel.

    Otherwise tensors of megabytes cost a page fault for every 4 KB, now and then, for whichever provider happens to
    allocate next: noise of several hundred microseconds. Eager code allocates most, so this favours it.
    """
    if sys.platform == "linux":
        libc, trim_threshold, mmap_threshold = ctypes.CDLL(None), -1, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 30)


def arguments(description: str | None, rounds: int, meaning: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=meaning)
    parser.add_argument("--out", type=Path, default=OF_THIS_PROCESSOR, help="folder of the CSV file")
    return parser


def main(name: str, cases: Callable[[], Iterable[Case]], keep_memory: bool = True) -> Path:
    """The command line of one benchmark: measure its cases, write its CSV, print the table made from it.

    Returns the folder of the results.
    """
    from benchmarks.report import print_table  # with rich, which a machine with a GPU need not have

    parser = arguments(f"Benchmark {name}; writes {name}.csv", 101, "interleaved rounds of every case")
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
