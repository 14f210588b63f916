"""``wgan-fast``: runs its commands. A user's mistake is reported in one line on stderr, exit code 2."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from wgan_fast.cli.options import Bench, Command, Doctor, Evaluate, Explain, Sample, Study, Train, default_folder, parse
from wgan_fast.training.errors import UserError, require
from wgan_fast.training.loop.distributed import Processes, ProcessLost, is_first, launched

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake of the user, 130 or 143 after a signal."""
    try:
        command = parse(list(sys.argv[1:] if arguments is None else arguments))
        return run(command)
    except UserError as error:
        if is_first() or isinstance(error, ProcessLost):
            print(f"wgan-fast: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        print(f"wgan-fast: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def run(command: Command) -> int:
    """Run a parsed command; returns the exit code."""
    if isinstance(command, Doctor):
        return _doctor()
    if isinstance(command, Explain):
        return _explain(command)
    if isinstance(command, Bench):
        return _bench(command)
    require("rich", f"wgan-fast {type(command).__name__.lower()}")
    from rich.console import Console

    console = Console(quiet=(isinstance(command, Train) and command.quiet) or not is_first())
    if isinstance(command, Train):
        with launched(command.options.device) as processes:
            return _train(command, console, processes)
    if isinstance(command, Sample):
        return _sample(command, console)
    if isinstance(command, Evaluate):
        return _evaluate(command, console)
    return _study(command, console)


def _train(command: Train, console: Any, processes: Processes) -> int:
    from wgan_fast.cli import console as view
    from wgan_fast.training.run.folder import Run

    start = time.perf_counter()
    out = command.out or default_folder(command.options)
    if command.resume and command.overwrite:
        raise UserError("--resume and --overwrite contradict each other")
    if command.checkpoint != "newest" and not command.resume:
        raise UserError(f"--checkpoint {command.checkpoint} needs --resume")
    if command.resume:
        run = Run.resume(out, command.options, command.checkpoint, processes=processes)
    else:
        run = Run.start(out, command.options, overwrite=command.overwrite, processes=processes)
    trainer, config = run.trainer, run.trainer.config
    view.print_config(console, config)
    with (
        view.training_progress(console, trainer.iteration, config.iterations) as progress,
        _stop_on_signal(trainer.stop, patient=processes.size > 1) as received,
    ):
        result = run.train(progress)
    if received or result.stopped:
        console.print(f"stopped at iteration {trainer.iteration}; --resume --out {out} continues", highlight=False)
        return 128 + (received[0] if received else signal.SIGTERM)  # another process received it
    if not processes.first:
        return 0
    files = run.write_pictures()
    evaluation = None
    if command.evaluate:
        evaluation, file = run.evaluate()
        files.append(file)
    view.print_summary(console, result, evaluation, files, time.perf_counter() - start)
    return 0


@contextlib.contextmanager
def _stop_on_signal(stop: Any, *, patient: bool) -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM stops the loop after its iteration, a second has its usual effect.

    Args:
        patient: ignore a second one too: a launcher repeats the signal that the terminal has already sent.
    """
    received: list[int] = []
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop()
        if not patient:
            for each, handler in usual.items():
                signal.signal(each, handler)

    for number in usual:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _sample(command: Sample, console: Any) -> int:
    from wgan_fast.training.report.pictures import write_drawn
    from wgan_fast.training.run.folder import Run

    out = command.file()
    trainer = Run.open(command.run, command.device, command.checkpoint).trainer
    write_drawn(trainer, out, command.num, label=command.class_, rows=command.interpolate, seed=command.seed)
    console.print(str(out), highlight=False, soft_wrap=True)
    return 0


def _evaluate(command: Evaluate, console: Any) -> int:
    from wgan_fast.cli import console as view
    from wgan_fast.training.run.folder import Run

    evaluation, file = Run.open(command.run, command.device, command.checkpoint).evaluate()
    view.print_evaluation(console, evaluation)
    console.print(str(file), highlight=False, soft_wrap=True)
    return 0


def _doctor() -> int:
    from wgan_fast.cli.doctor import print_doctor

    print_doctor()
    return 0


def _explain(command: Explain) -> int:
    import torch

    from wgan_fast.double_backward import explain
    from wgan_fast.training.config import Config
    from wgan_fast.training.loop.build import build_networks

    chosen: dict[str, Any] = {} if command.architecture is None else {"architecture": command.architecture}
    config = Config(data=command.data, **chosen)
    explanation = explain(build_networks(config).critic, torch.randn(command.batch, *config.sample_shape))
    print(explanation)
    return 0


def _bench(command: Bench) -> int:
    from wgan_fast.cli.bench import print_bench
    from wgan_fast.training.loop.build import usable_device

    print_bench(command.rounds, usable_device(command.device))
    return 0


def _study(command: Study, console: Any) -> int:
    from wgan_fast.studies import STUDIES
    from wgan_fast.studies.study import run_study

    if command.name == "list":
        for name, claim in STUDIES.items():
            console.print(f"{name:<22}{claim}", highlight=False, soft_wrap=True)
        return 0
    report = run_study(command.name, size=command.size, seed=command.seed, out=command.out)
    console.print(report.findings, highlight=False, soft_wrap=True)
    console.print(f"{report.seconds:.1f} s", highlight=False)
    for file in report.files:
        console.print(str(file), highlight=False, soft_wrap=True)
    return 0
