"""What training and evaluating print: progress, a bar on a terminal and lines elsewhere; tables at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from wgan_fast.training.config import Config
from wgan_fast.training.loop.trainer import Record, TrainResult
from wgan_fast.training.option import flag, grouped, shown_value
from wgan_fast.training.report.evaluation import Evaluation, Figure

PLAIN_EVERY_SECONDS = 5.0


def training_progress(console: Console, done: int, total: int) -> AbstractContextManager[Callable[[Record], None]]:
    """Yields the function to call with every record: it moves a bar, or prints a line every five seconds."""
    return _bar(console, done, total) if console.is_terminal else _lines(console, done, total)


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
    table = _table(evaluation, title="summary", show_header=evaluation is not None)
    table.add_row("generator iterations", str(result.iterations))
    table.add_row("training time", f"{result.seconds:.1f} s")
    table.add_row("time in all", f"{seconds:.1f} s")
    table.add_row("iterations per second", f"{result.iterations / max(result.seconds, 1e-9):.1f}")
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
    table = _table(evaluation)
    _add_figures(table, evaluation.figures)
    console.print(table)
    _print_notes(console, evaluation)


def _table(evaluation: Evaluation | None, **options: Any) -> Table:
    table = Table("", Column("generated", justify="right"), **options)
    if evaluation is not None:
        table.add_column("held-out real data", justify="right")
    return table


def _add_figures(table: Table, figures: Sequence[Figure]) -> None:
    for figure in figures:
        table.add_row(figure.name, _shown(figure.generated), _shown(figure.held_out))


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _print_notes(console: Console, evaluation: Evaluation | None) -> None:
    for note in evaluation.notes if evaluation is not None else ():
        console.print(f"- {note}", highlight=False, style="dim")
