"""``wgan-fast``: train, sample, evaluate, doctor. Mistakes are one line on stderr, exit code 2."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Union

from wgan_fast.training.config import Config
from wgan_fast.training.errors import UserError, require

USAGE_ERROR = 2


@dataclass
class Train:
    """Train a WGAN, evaluate it, and write figures and pictures into a run folder."""

    config: Config = field(default_factory=Config)
    out: Path | None = None
    """Run folder; by default runs/DATA-CONSTRAINT."""
    resume: bool = False
    """Continue the run in that folder, with its options; --iterations may be raised."""
    checkpoint: str = "newest"
    """Where --resume continues: newest, best (the nearest to held-out samples), or an iteration. Later ones go."""
    overwrite: bool = False
    """Replace the run in that folder."""
    evaluate: bool = True
    """Compare generated samples with held-out real ones at the end."""

    def folder(self) -> Path:
        return self.out or Path("runs") / f"{Path(self.config.data).stem}-{self.config.constraint}".replace(":", "-")


@dataclass
class Sample:
    """Draw samples from a trained generator."""

    run: Path
    """Run folder."""
    out: Path = Path("samples.png")
    """A .png (a grid of images, or a plot of points) or a .npz (the array "samples", float32)."""
    num: int = 64
    """How many."""
    seed: int = 0
    """Draws the noise: the same run, num and seed give the same samples."""
    checkpoint: str = "newest"
    """newest, best (the nearest to held-out samples), or an iteration."""
    device: str | None = None
    """Where to compute; by default where the run was trained."""


@dataclass
class Evaluate:
    """Compare a run's generated samples with held-out real ones."""

    run: Path
    """Run folder."""
    checkpoint: str = "newest"
    """newest, best (the nearest to held-out samples), or an iteration."""
    device: str | None = None
    """Where to compute; by default where the run was trained."""


@dataclass
class Doctor:
    """Versions, devices, backends and threads: what a bug report needs."""


Command = Train | Sample | Evaluate | Doctor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake of the caller, 130 or 143 after a signal."""
    try:
        command = parse(list(sys.argv[1:] if arguments is None else arguments))
        require("rich", "the command line")
        return run(command)
    except UserError as error:
        print(f"wgan-fast: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        print(f"wgan-fast: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def parse(arguments: list[str]) -> Command:
    """The command that the arguments ask for; a resumed run's saved options become its defaults.

    Raises:
        UserError: the arguments do not parse.
        SystemExit: with code 0, after --help.
    """
    command = _parse(arguments, Train())
    if isinstance(command, Train) and command.resume:
        from wgan_fast.training.runs import read_config

        saved = read_config(command.folder())
        fields = {name: getattr(saved, name) for name in Config.__dataclass_fields__}
        command = _parse(arguments, Train(config=Config(**fields)))
    return command


def _parse(arguments: list[str], train: Train) -> Command:
    tyro = require("tyro", "the command line")
    named: list[Any] = [
        Annotated[kind, tyro.conf.subcommand(kind.__name__.lower(), **defaults)]
        for kind, defaults in ((Train, {"default": train}), (Sample, {}), (Evaluate, {}), (Doctor, {}))
    ]
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            command: Command = tyro.cli(
                Union[tuple(named)],  # noqa: UP007 - made at run time
                prog="wgan-fast",
                description="Train, sample and evaluate Wasserstein GANs.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_first_sentence(captured.getvalue())) from None
    return command


def _first_sentence(box: str) -> str:
    """The message inside tyro's box, without its frame, its help text and its advice."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\[/?bold\]", "", box)
    framed = [line.strip("│|╭╮╰╯+ ") for line in plain.splitlines()]
    lines = [line for line in framed if line.strip("─- ")]
    message: list[str] = []
    for line in lines[1:] or lines:
        if line.startswith(("Argument helptext", "For full helptext", "Perhaps you meant")):
            break
        message.append(line)
    return " ".join(word for word in " ".join(message).split()) or "the arguments cannot be understood"


def run(command: Command) -> int:
    """Carry out a parsed command; returns the exit code."""
    from rich.console import Console

    console = Console()
    if isinstance(command, Train):
        return _train(command, console)
    if isinstance(command, Sample):
        return _sample(command, console)
    if isinstance(command, Evaluate):
        return _evaluate(command, console)
    from wgan_fast.training import console as view
    from wgan_fast.training.doctor import report

    view.print_report(console, report())
    return 0


def _train(command: Train, console: Any) -> int:
    from wgan_fast.training import console as view
    from wgan_fast.training import runs

    start = time.perf_counter()
    out = command.folder()
    if command.resume and command.overwrite:
        raise UserError("--resume and --overwrite contradict one another")
    if command.checkpoint != "newest" and not command.resume:
        raise UserError(f"--checkpoint {command.checkpoint} needs --resume")
    if command.resume:
        trainer = runs.resume_run(out, command.config, command.checkpoint)
    else:
        trainer = runs.start_run(out, command.config, overwrite=command.overwrite)
    config = trainer.config
    steps = f"n_critic {config.n_critic}" + (
        ", 100 in the first 25 iterations and in every 500th" if config.critic_burst else ""
    )
    console.print(
        f"{config.data}, {config.constraint}: {config.iterations} iterations, {steps}, {config.optimizer} "
        f"{config.learning_rate:g}, batch {config.batch_size}, {config.architecture} {config.width}",
        highlight=False,
    )
    with (
        view.training_progress(console, trainer.iteration, config.iterations) as progress,
        _stop_on_signal(trainer.stop) as received,
    ):
        result = trainer.train(out, progress)
    if received:
        console.print(f"stopped at iteration {trainer.iteration}; --resume --out {out} continues", highlight=False)
        return 128 + received[0]
    files = runs.write_pictures(trainer, out)
    evaluation = None
    if command.evaluate:
        evaluation = runs.evaluate_run(trainer)
        files.append(runs.write_evaluation(evaluation, out))
    view.print_summary(console, result, evaluation, files, time.perf_counter() - start)
    return 0


@contextlib.contextmanager
def _stop_on_signal(stop: Any) -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM asks the loop to end after its iteration, a second has its usual effect."""
    received: list[int] = []
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop()
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
    from wgan_fast.training import plots, runs

    if command.num < 1:
        raise UserError(f"--num must be at least 1, got {command.num}")
    if command.out.suffix not in (".png", ".npz"):
        raise UserError(f"--out must end in .png or .npz, got {command.out}")
    trainer = runs.open_run(command.run, command.device, command.checkpoint)
    samples = trainer.sample(command.num, seed=command.seed)
    shape = trainer.data.sample_shape
    command.out.parent.mkdir(parents=True, exist_ok=True)
    if command.out.suffix == ".npz":
        require("numpy", "writing an npz").savez_compressed(command.out, samples=samples.cpu().numpy())
    elif len(shape) == 3:
        plots.write_image_grid(command.out, samples)
    elif shape == (2,):
        plots.write_points(command.out, samples, trainer.data.batch(command.num, runs.picture_order(trainer)))
    else:
        raise UserError(f"samples of shape {shape} cannot be drawn; --out samples.npz writes the numbers")
    console.print(str(command.out), highlight=False, soft_wrap=True)
    return 0


def _evaluate(command: Evaluate, console: Any) -> int:
    from wgan_fast.training import console as view
    from wgan_fast.training import runs

    trainer = runs.open_run(command.run, command.device, command.checkpoint)
    evaluation = runs.evaluate_run(trainer)
    view.print_evaluation(console, evaluation)
    console.print(str(runs.write_evaluation(evaluation, command.run)), highlight=False, soft_wrap=True)
    return 0
