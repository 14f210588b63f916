"""Output of the commands: progress, a bar on a terminal and lines elsewhere; tables at the end; doctor's report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import wgan_fast
from wgan_fast.training.config import Config
from wgan_fast.training.loop.trainer import Record, TrainResult
from wgan_fast.training.option import flag, grouped, shown_value
from wgan_fast.training.report.evaluation import Evaluation, Figure

PLAIN_EVERY_SECONDS = 5.0
PACKAGES = [
    "triton",
    "numpy",
    "rich",
    "matplotlib",
    "scikit-learn",
    "pillow",
    "POT",
    "PyYAML",
    "torchmetrics",
    "safetensors",
    "torchvision",
]


@contextmanager
def training_progress(console: Console, done: int, total: int) -> Iterator[Callable[[Record], None]]:
    """Yields the function to call with every record: it moves a bar, or prints a line every five seconds."""
    show = _bar(console, done, total) if console.is_terminal else _lines(console, done, total)
    with show as update:
        yield update


@contextmanager
def _bar(console: Console, done: int, total: int) -> Iterator[Callable[[Record], None]]:
    columns = (
        TextColumn("iteration"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("wasserstein_estimate {task.fields[estimate]}"),
    )
    start = time.perf_counter()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total, completed=done, rate="", estimate="")

        def update(record: Record) -> None:
            rate = (record["iteration"] - done) / (time.perf_counter() - start)
            estimate = f"{record['wasserstein_estimate']:.4f}"
            progress.update(task, completed=record["iteration"], rate=f"{rate:.1f}/s", estimate=estimate)

        yield update


@contextmanager
def _lines(console: Console, done: int, total: int) -> Iterator[Callable[[Record], None]]:
    start = last = time.perf_counter()

    def update(record: Record) -> None:
        nonlocal last
        now = time.perf_counter()
        iteration = record["iteration"]
        if now - last < PLAIN_EVERY_SECONDS and iteration < total:
            return
        last = now
        rate = (iteration - done) / (now - start)
        console.print(
            f"iteration {iteration}/{total}  {rate:.1f}/s  {(total - iteration) / rate:.0f} s left  "
            f"wasserstein_estimate {record['wasserstein_estimate']:.4f}",
            highlight=False,
        )

    yield update


def print_config(console: Console, config: Config) -> None:
    """The options of a run, one line per group; config.json holds all of them."""
    for group, options in described(config).items():
        console.print(f"{group:<14}{', '.join(options)}", highlight=False, soft_wrap=True)


def described(config: Config) -> dict[str, list[str]]:
    """The options that have an effect in this run, with their values, by group."""
    told: dict[str, list[str]] = {}
    for group, field in grouped(Config):
        value, (other, *effective) = getattr(config, field.name), field.metadata["only"] or ("data",)
        if value is not None and (not effective or getattr(config, other).partition(":")[0] in effective):
            told.setdefault(group, []).append(f"{flag(field.name)[2:]} {shown_value(value)}")
    return told


def print_summary(
    console: Console,
    result: TrainResult,
    evaluation: Evaluation | None,
    files: Sequence[Path],
    seconds: float,
) -> None:
    """The table at the end of `train`.

    Args:
        result: of the training loop.
        evaluation: None if it was not requested.
        files: the files written.
        seconds: of the whole command, with data, pictures and evaluation.
    """
    table = Table(title="summary", show_header=evaluation is not None)
    table.add_column("")
    table.add_column("generated", justify="right")
    if evaluation is not None:
        table.add_column("held-out real data", justify="right")
    table.add_row("generator iterations", str(result.iterations))
    table.add_row("training time", f"{result.seconds:.1f} s")
    table.add_row("time in all", f"{seconds:.1f} s")
    table.add_row("iterations a second", f"{result.iterations / max(result.seconds, 1e-9):.1f}")
    if result.last:
        table.add_row("wasserstein_estimate", f"{result.last['wasserstein_estimate']:.4f}")
    if evaluation is not None:
        table.add_section()
        _add_figures(table, evaluation.figures)
    console.print(table)
    _print_notes(console, evaluation)
    for file in files:
        console.print(str(file), highlight=False, soft_wrap=True)


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """The table of `evaluate`."""
    table = Table()
    table.add_column("")
    table.add_column("generated", justify="right")
    table.add_column("held-out real data", justify="right")
    _add_figures(table, evaluation.figures)
    console.print(table)
    _print_notes(console, evaluation)


def _add_figures(table: Table, figures: Sequence[Figure]) -> None:
    for figure in figures:
        table.add_row(figure.name, _shown(figure.generated), _shown(figure.held_out))


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _print_notes(console: Console, evaluation: Evaluation | None) -> None:
    for note in evaluation.notes if evaluation is not None else ():
        console.print(f"- {note}", highlight=False, style="dim")


def print_doctor(console: Console) -> None:
    """What a bug report needs: versions, devices, backends with the reason for each absent one, thread counts."""
    sections = {
        "versions": {
            "wgan-fast": wgan_fast.__version__,
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "torch": torch.__version__,
            **{name: _version(name) for name in PACKAGES},
        },
        "devices": _devices(),
        "backends": {
            name: "available" if backend.available else f"not available: {backend.reason}"
            for name, backend in wgan_fast.available_backends().items()
        },
        "threads": {
            "cores": str(os.cpu_count()),
            "torch.get_num_threads()": str(torch.get_num_threads()),
            "torch.get_num_interop_threads()": str(torch.get_num_interop_threads()),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
            "WGAN_FAST_BACKEND": os.environ.get("WGAN_FAST_BACKEND", "not set"),
        },
    }
    for section, facts in sections.items():
        console.print(section, style="bold")
        for name, fact in facts.items():
            console.print(f"  {name:<32}{fact}", highlight=False, soft_wrap=True)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"}
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        devices["cuda"] = "not available: " + ("no usable GPU" if built else "this torch is built without CUDA")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"compute capability {properties.major}.{properties.minor}"
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {capability}"
    return devices
