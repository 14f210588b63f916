"""What training and evaluating print: progress, a bar on a terminal and lines elsewhere; tables at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from wgan_fast.training.config import Config
from wgan_fast.training.loop.trainer import Record, TrainResult
from wgan_fast.training.option import flag, options_of, shown_value
from wgan_fast.training.report.evaluation import Evaluation

PLAIN_EVERY_SECONDS = 5.0


class TrainingConsole(Console):
    """A console that falls silent where rich's ends the process: ``| head`` does not end a training."""

    def on_broken_pipe(self) -> None:
        """Print nothing from here on."""
        with suppress(SystemExit):
            super().on_broken_pipe()


@contextmanager
def training_progress(console: Console, done: int, total: int) -> Iterator[Callable[[Record], None]]:
    """Yields the function to call with every record: it moves a bar, or prints a line every five seconds."""
    start = last = time.perf_counter()

    def rate(iteration: int) -> float:
        return (iteration - done) / (time.perf_counter() - start)

    def print_line(record: Record) -> None:
        nonlocal last
        iteration, now = record["iteration"], time.perf_counter()
        if now - last < PLAIN_EVERY_SECONDS and iteration < total:
            return
        last = now
        left = (total - iteration) / rate(iteration)
        console.print(
            f"iteration {iteration}/{total}  {rate(iteration):.1f}/s  {left:.0f} s left  "
            f"wasserstein_estimate {record['wasserstein_estimate']:.4f}",
            highlight=False,
        )

    if not console.is_terminal:
        yield print_line
        return
    columns = (
        TextColumn("iteration"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("wasserstein_estimate {task.fields[estimate]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total, completed=done, rate="", estimate="")

        def move_bar(record: Record) -> None:
            iteration, estimate = record["iteration"], f"{record['wasserstein_estimate']:.4f}"
            progress.update(task, completed=iteration, rate=f"{rate(iteration):.1f}/s", estimate=estimate)

        yield move_bar


def print_config(console: Console, config: Config) -> None:
    """The options of a run, one line per group; config.json holds all of them."""
    for group, options in described(config).items():
        console.print(f"{group:<14}{', '.join(options)}", highlight=False, soft_wrap=True)


def described(config: Config) -> dict[str, list[str]]:
    """The options that have an effect in this run, with their values, by group."""
    told: dict[str, list[str]] = {}
    for name, option in options_of(Config).items():
        value, (other, *effective) = getattr(config, name), option.only or ("data",)
        if value is None or option.hidden:
            continue
        if not effective or getattr(config, other).partition(":")[0] in effective:
            told.setdefault(option.group, []).append(f"{flag(name)[2:]} {shown_value(value)}")
    return told


def print_summary(
    console: Console,
    result: TrainResult,
    evaluation: Evaluation | None,
    files: Sequence[Path],
    seconds: float,
) -> None:
    """The table at the end of `train`, and the files written; ``seconds`` are those of the whole command."""
    facts = {
        "generator iterations": str(result.iterations),
        "training time": f"{result.seconds:.1f} s",
        "time in all": f"{seconds:.1f} s",
        "iterations per second": f"{result.iterations / max(result.seconds, 1e-9):.1f}",
    }
    if result.last:
        facts["wasserstein_estimate"] = f"{result.last['wasserstein_estimate']:.4f}"
    print_evaluation(console, evaluation, facts)
    for file in files:
        console.print(str(file), highlight=False, soft_wrap=True)


def print_evaluation(console: Console, evaluation: Evaluation | None, facts: Mapping[str, str] | None = None) -> None:
    """The table of `evaluate`, or that of `train`, which begins with facts about the training."""
    title = None if facts is None else "summary"
    table = Table("", Column("generated", justify="right"), title=title, show_header=evaluation is not None)
    if evaluation is not None:
        table.add_column("held-out real data", justify="right")
    for name, fact in (facts or {}).items():
        table.add_row(name, fact)
    if evaluation is not None:
        table.add_section()
        for figure in evaluation.figures:
            table.add_row(figure.name, _shown(figure.generated), _shown(figure.held_out))
    console.print(table)
    for note in evaluation.notes if evaluation is not None else ():
        console.print(f"- {note}", highlight=False, style="dim")


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
