"""``wgan-fast``: runs its commands. A user's mistake is reported in one line on stderr, exit code 2."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch

from wgan_fast.cli.bench import print_bench
from wgan_fast.cli.doctor import print_doctor
from wgan_fast.cli.options import Bench, Doctor, Evaluate, Explain, Sample, Study, Train, default_folder, parse
from wgan_fast.double_backward import explain
from wgan_fast.studies import STUDIES
from wgan_fast.training.config import Config
from wgan_fast.training.data.sets import check_name
from wgan_fast.training.errors import UserError, require, writing
from wgan_fast.training.loop.build import build_networks, usable_device
from wgan_fast.training.loop.distributed import ProcessLost, is_first, launched
from wgan_fast.training.report.pictures import write_drawn
from wgan_fast.training.run.folder import Run

USAGE_ERROR = 2
OUT_OF_MEMORY = re.compile(r"tried to allocate|Storage size calculation overflowed", re.IGNORECASE)
"""In torch's messages, of the CPU and of CUDA."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake of the user, 130 or 143 after a signal."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a letter that a terminal lacks must not end a training
    try:
        command = parse(list(sys.argv[1:] if arguments is None else arguments))
        if not isinstance(command, Doctor | Explain | Bench):  # which need torch alone
            require("rich", f"wgan-fast {type(command).__name__.lower()}")
        return run(command) or 0
    except (UserError, OSError) as error:
        if is_first() or isinstance(error, ProcessLost | OSError):  # any other is the same in all processes
            print(f"wgan-fast: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        print(f"wgan-fast: out of memory ({str(error).partition(chr(10))[0]})", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


@functools.singledispatch
def run(command: Any) -> int | None:
    """Run a parsed command; returns the exit code, or None for 0."""
    raise TypeError(f"{command!r} is not a command")


@run.register
def _train(command: Train) -> int:
    from wgan_fast.cli import console as view

    if command.resume and command.overwrite:
        raise UserError("--resume and --overwrite contradict each other")
    if command.checkpoint != "newest" and not command.resume:
        raise UserError(f"--checkpoint {command.checkpoint} needs --resume")
    _require_what_comes_last(command)
    start = time.perf_counter()
    out = command.out or default_folder(command.options)
    with launched(command.options.device) as processes:
        console = view.TrainingConsole(quiet=command.quiet or not processes.first)
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
        if processes.first:
            files = run.write_pictures()
            evaluation = None
            if command.evaluate:
                evaluation, file = run.evaluate()
                files.append(file)
            view.print_summary(console, result, evaluation, files, time.perf_counter() - start)
    return 0


def _require_what_comes_last(command: Train) -> None:
    """Import now what pictures and figures need: without it, the command would fail after the whole training."""
    require("matplotlib.figure", "drawing curves")
    require("PIL.Image", "drawing samples")
    if command.evaluate:
        require("ot", "--evaluate")
        if len(command.options.sample_shape) > 1:
            require("torchmetrics.image.fid", "--evaluate")


@contextlib.contextmanager
def _stop_on_signal(stop: Callable[[], None], *, patient: bool) -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM stops the loop after its iteration, a second has its usual effect.

    Args:
        patient: ignore a second one too: a launcher repeats the signal that the terminal has already sent.
    """
    received: list[int] = []
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop()
        if not patient:
            restore()

    for number in usual:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()


@run.register
def _sample(command: Sample) -> None:
    out = command.file()
    trainer = Run.open(command.run, command.device, command.checkpoint).trainer
    with writing(f"--out {out}"):
        write_drawn(trainer, out, command.num, label=command.class_, rows=command.interpolate, seed=command.seed)
    print(out)


@run.register
def _evaluate(command: Evaluate) -> None:
    from rich.console import Console

    from wgan_fast.cli.console import print_evaluation

    evaluation, file = Run.open(command.run, command.device, command.checkpoint).evaluate()
    print_evaluation(Console(), evaluation)
    print(file)


@run.register
def _doctor(command: Doctor) -> None:
    print_doctor()


@run.register
def _explain(command: Explain) -> None:
    chosen: dict[str, Any] = {} if command.architecture is None else {"architecture": command.architecture}
    check_name(command.data)
    config = Config(data=command.data, **chosen)
    print(explain(build_networks(config).critic, torch.randn(command.batch, *config.sample_shape)))


@run.register
def _bench(command: Bench) -> None:
    print_bench(command.rounds, usable_device(command.device))


@run.register
def _study(command: Study) -> None:
    if command.name == "list":
        for name, claim in STUDIES.items():
            print(f"{name:<22}{claim}")
        return
    from wgan_fast.studies.study import run_study  # needs numpy

    report = run_study(command.name, size=command.size, seed=command.seed, out=command.out)
    print(report.findings)
    print(f"{report.seconds:.1f} s")
    for file in report.files:
        print(file)
