"""A trainer in a folder: created, resumed, reopened, trained with logs and checkpoints, and drawn."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import wgan_fast
from wgan_fast.training.config import Config, check_resumable
from wgan_fast.training.errors import MissingPackage, UserError, require, writing
from wgan_fast.training.files import replace_file
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.loop.distributed import Processes, ProcessLost
from wgan_fast.training.loop.health import NonFinite
from wgan_fast.training.loop.schedules import learning_rate
from wgan_fast.training.loop.trainer import Record, Trainer, TrainResult
from wgan_fast.training.report.evaluation import Evaluation, evaluate
from wgan_fast.training.report.metrics import sliced_wasserstein
from wgan_fast.training.report.pictures import POINTS_SHOWN, real_points, write_critic, write_curves, write_samples
from wgan_fast.training.run.checkpoint import iterations, load_checkpoint, locked, remove_later, save_checkpoint
from wgan_fast.training.run.log import RunLog, read_metrics
from wgan_fast.training.run.state import check_finite, restore, snapshot

MAX_RESTORES = 3
COMPARED_SAMPLES = 512

FILES = ("config.json", "metrics.jsonl", "evaluation.json", "samples.png", "curves.png", "critic.png")
FOLDERS = ("samples", "tensorboard", "checkpoints")

Distance = Callable[[Tensor, Tensor], float]

_log = logging.getLogger("wgan_fast")


class Run:
    """A trainer in a folder, which holds its metrics.jsonl, pictures of samples and checkpoints::

        run = Run(trainer, Path("runs/mine"))
        run.train()

    `start`, `resume` and `open` build the trainer from a config, which they keep in the folder's config.json.

    Args:
        trainer: what is trained.
        folder: made by `train` where it does not exist.
        distance: from generated and held-out samples, ``(n, *sample_shape)`` each, to the number by which the best
            checkpoint is known.
    """

    def __init__(self, trainer: Trainer, folder: Path | str, *, distance: Distance = sliced_wasserstein) -> None:
        self.trainer = trainer
        self.folder = folder = Path(folder)
        self._distance: Distance | None = distance
        self._log = RunLog(folder, tensorboard=trainer.config.tensorboard and trainer.processes.first)
        self._kept: int | None = None  # the iteration of the checkpoint that was last written or read

    @classmethod
    def start(
        cls, folder: Path | str, config: Config, *, overwrite: bool = False, processes: Processes | None = None
    ) -> Run:
        """A new run; its folder is made and its config.json written.

        Raises:
            UserError: the folder holds a run already and ``overwrite`` is not set, or it cannot be written.
        """
        folder, processes = Path(folder), processes or Processes()
        present = processes.by_first(lambda: [folder / name for name in FILES + FOLDERS if (folder / name).exists()])
        if present and not overwrite:
            raise UserError(f"--out {folder} holds a run already; --resume continues it, --overwrite replaces it")
        if config.tensorboard:
            require("tensorboard", "--tensorboard")
        run = cls(build_trainer(config, processes), folder)
        processes.by_first(lambda: run._write_config(in_place_of=present))
        return run

    @classmethod
    def resume(
        cls, folder: Path | str, config: Config, checkpoint: str | int = "newest", *, processes: Processes | None = None
    ) -> Run:
        """The run in ``folder``, at one of its checkpoints.

        Args:
            folder: of a run.
            config: its options; those that a resumed run may change may differ.
            checkpoint: "newest", "best" or an iteration; later checkpoints are removed.
            processes: those that share the work.

        Raises:
            UserError: there is no run, its checkpoint is damaged, or ``config`` differs in another option.
        """
        folder = Path(folder)
        check_resumable(read_config(folder), config)
        if not iterations(folder):
            raise UserError(f"{folder}: the run stopped before its first checkpoint; --overwrite starts it again")
        run = cls(build_trainer(config, processes), folder)
        run.load(checkpoint)
        run.trainer.processes.by_first(run._write_config)
        return run

    @classmethod
    def open(cls, folder: Path | str, device: str | None = None, checkpoint: str | int = "newest") -> Run:
        """A finished or stopped run at one of its checkpoints, to sample from or to evaluate.

        Args:
            folder: of a run.
            device: where to compute, in fp32 throughout; by default where and as the run was trained.
            checkpoint: "newest", "best" or an iteration.

        Raises:
            UserError: there is no run, or its checkpoint is damaged.
        """
        config = read_config(Path(folder))
        if device is not None:  # which need not support the options of the training
            config = dataclasses.replace(config, device=device, precision="fp32", graph="auto")
        run = cls(build_trainer(config), folder)
        run.load(checkpoint)
        return run

    # --------------------------------------------------------------------------------------------------- training

    def train(self, on_record: Callable[[Record], None] | None = None) -> TrainResult:
        """`Trainer.train` with a log, pictures and checkpoints; a training that diverged may be restored from one.

        Args:
            on_record: called with every record, by the first of several processes.

        Raises:
            UserError: the training diverged, the folder holds more of a run than this trainer has done, another
                process is training in it, or it cannot be written; ProcessLost: another process has died.
        """
        try:
            with contextlib.ExitStack() as stack:
                self.trainer.processes.by_first(lambda: stack.enter_context(locked(self.folder)))
                self._begin()
                return self.trainer.train(on_record, after_iteration=self._after_iteration, recover=self._go_back)
        except ProcessLost as error:
            left = iterations(self.folder)
            advice = f"; --resume --out {self.folder} continues from iteration {left[-1]}" if left else ""
            raise ProcessLost(f"{error}{advice}") from error

    def _begin(self) -> None:
        """A log up to this iteration, and a checkpoint of this iteration to restore from."""
        trainer, folder = self.trainer, self.folder
        later = [i for i in iterations(folder) if i > trainer.iteration]
        if later:
            raise UserError(
                f"{folder} holds a checkpoint of iteration {later[-1]}, but this trainer has done {trainer.iteration}: "
                "load() continues that run, another folder starts a new one"
            )
        trainer.processes.by_first(lambda: self._log.resume_after(trainer.iteration))
        if self._kept != trainer.iteration:
            try:
                self._save(compare=False)
            except NonFinite as problem:
                raise UserError(f"the networks cannot be trained: {problem}") from problem

    def _after_iteration(self, record: Record | None, stopped: bool) -> None:
        """Write the line of the log, the picture and the checkpoint that are due."""
        trainer, config, iteration = self.trainer, self.trainer.config, self.trainer.iteration
        if record is not None and iteration % config.log_every == 0:  # else the last one's, which a longer run lacks
            self._log.append(record)
        drawn = config.sample_every > 0 and iteration % config.sample_every == 0
        due = stopped or iteration % config.checkpoint_every == 0 or iteration == config.iterations
        if drawn or due:
            trainer.watch.read()
        if drawn and trainer.processes.first:
            self._log.draw(trainer)
        if due:
            self._save(compare=not stopped)

    def _go_back(self, problem: NonFinite) -> None:
        """Restore the newest checkpoint with a lower learning rate, if configured, at most `MAX_RESTORES` times."""
        trainer, good = self.trainer, iterations(self.folder)[-1]
        restores = trainer.restores + 1
        diverged, last = f"the training diverged: {problem}", f"the last good checkpoint is of iteration {good}"
        if trainer.config.on_nonfinite == "stop":
            advice = "--resume --on-nonfinite restore continues from it with a lower learning rate"
            raise UserError(f"{diverged}; {last}, and {advice}") from problem
        if restores > MAX_RESTORES:
            lowered = f"after the learning rate was lowered {MAX_RESTORES} times"
            raise UserError(f"{diverged}, {lowered}; {last}") from problem
        self.load()
        trainer.restores = restores
        trainer.processes.by_first(lambda: self._log.resume_after(trainer.iteration))
        if trainer.processes.first:
            rate = learning_rate(trainer.config, trainer.iteration, restores)
            _log.warning(
                f"{problem}: back to the checkpoint of iteration {good}, learning rate {rate:g} from there on "
                f"(restore {restores} of at most {MAX_RESTORES})"
            )

    # ------------------------------------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Write a checkpoint, by the first process; all of them must call this.

        Raises:
            UserError: it cannot be written, or a weight is not finite.
        """
        try:
            self._save(compare=True)
        except NonFinite as problem:
            raise UserError(f"nothing was saved: {problem}") from problem

    def load(self, checkpoint: str | int = "newest") -> None:
        """Continue from a checkpoint of the folder as if the run had stopped there.

        Args:
            checkpoint: "newest", "best" (the nearest to held-out samples), or an iteration.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or it belongs to other networks.
        """
        restore(self.trainer, load_checkpoint(self.folder, self.trainer.device, checkpoint), self.folder)
        self._kept = self.trainer.iteration

    def _save(self, *, compare: bool) -> None:
        """Write a checkpoint, unless a weight is not finite; after every line of the log that precedes it.

        Args:
            compare: measure the distance of samples to held-out ones, by which the best checkpoint is known.
        """
        self.trainer.processes.by_first(lambda: self._write_checkpoint(compare))
        self._kept = self.trainer.iteration

    def _write_checkpoint(self, compare: bool) -> None:
        checkpoint, keep = snapshot(self.trainer), self.trainer.config.keep_checkpoints
        check_finite(checkpoint)
        self._log.flush()
        distance = self._compared() if compare else None
        save_checkpoint(self.folder, self.trainer.iteration, checkpoint, keep=keep, distance=distance)

    def _compared(self) -> float | None:
        """The distance of samples to held-out ones, drawn separately from the training's; None if not available."""
        if self._distance is None:
            return None
        real = self.trainer.data.held_out(COMPARED_SAMPLES, torch.Generator().manual_seed(0))
        try:
            distance = self._distance(self.trainer.sample(len(real)), real)
        except MissingPackage as absent:
            _log.warning(f"no checkpoint will be known as the best: {absent}")
            self._distance = None
            return None
        return distance if math.isfinite(distance) else None

    # ----------------------------------------------------------------------------------------- pictures and figures

    def write_pictures(self) -> list[Path]:
        """Draw samples.png, curves.png and, for 2-D data without classes, critic.png; returns the files."""
        trainer, out = self.trainer, self.folder
        files = [out / "samples.png"] if write_samples(trainer, out / "samples.png") else []
        files.append(out / "curves.png")
        write_curves(files[-1], read_metrics(out / "metrics.jsonl"))
        if trainer.data.sample_shape == (2,) and not trainer.config.conditional:  # else a surface per class
            files.append(out / "critic.png")
            write_critic(files[-1], trainer.critic, trainer.sample(POINTS_SHOWN), real_points(trainer, POINTS_SHOWN))
        return files

    def evaluate(self) -> tuple[Evaluation, Path]:
        """The figures of the generator beside those of held-out real data, and evaluation.json, which holds them."""
        trainer = self.trainer
        of_classes = (lambda labels: trainer.sample(len(labels), labels=labels)) if trainer.config.conditional else None
        evaluation = evaluate(trainer.sample, trainer.data, sample_classes=of_classes)
        path = self.folder / "evaluation.json"
        figures = {f.name: {"generated": f.generated, "held_out": f.held_out} for f in evaluation.figures}
        path.write_text(json.dumps({"figures": figures, "notes": evaluation.notes}, indent=2) + "\n")
        return evaluation, path

    def _write_config(self, in_place_of: Sequence[Path] = ()) -> None:
        """Make the folder one of this run at this iteration: remove what is of another run, and what is later."""
        content = {"wgan_fast": wgan_fast.__version__, **dataclasses.asdict(self.trainer.config)}
        with locked(self.folder), writing(f"--out {self.folder}"):
            for path in in_place_of:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            remove_later(self.folder, self.trainer.iteration)
            replace_file(self.folder / "config.json", (json.dumps(content, indent=2) + "\n").encode())


def read_config(run: Path) -> Config:
    """The config.json of a run folder."""
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"{run} is not a run folder: there is no config.json in it")
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        content.pop("wgan_fast", None)
        return Config(**content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or foreign ({error})") from error
