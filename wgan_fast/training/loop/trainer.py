"""The training loop: logging, checkpoints, samples. What an iteration does is in iteration.py."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wgan_fast.constraints import Constraint
from wgan_fast.penalties import gradient_penalty
from wgan_fast.training.config import Config, resolve
from wgan_fast.training.data.sets import Data, class_count, draw_batch, split
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.distributed import Processes, ProcessLost
from wgan_fast.training.loop.health import NonFinite, Watch
from wgan_fast.training.loop.iteration import Algorithm, make_constraint
from wgan_fast.training.models.sampling import as_labels, draw_latent, generate, slerp
from wgan_fast.training.report.metrics import sliced_wasserstein
from wgan_fast.training.run.checkpoint import iterations, load_checkpoint, save_checkpoint
from wgan_fast.training.run.log import MetricsLog, Record
from wgan_fast.training.run.run_log import RunLog
from wgan_fast.training.run.state import non_finite, restore, snapshot, synchronise
from wgan_fast.training.step.steps import CriticStep

MAX_RESTORES = 3
COMPARED_SAMPLES = 512

_log = logging.getLogger("wgan_fast")


class TrainResult(NamedTuple):
    """``seconds`` counts this call's training alone; ``stopped``: `Trainer.stop` ended it early."""

    iterations: int
    seconds: float
    last: Record
    stopped: bool


class Trainer:
    """Trains a generator and a critic, one's own or the built-in ones.

        trainer = Trainer(generator, critic, data, Config(constraint="gp", iterations=1000, latent_dim=64))
        trainer.train(Path("runs/mine"))
        samples = trainer.sample(64)

    Args:
        generator: module from ``(B, latent_dim)`` standard normal noise to ``(B, *sample_shape)``.
        critic: module from samples to scores, ``(B,)`` or ``(B, 1)`` or a map of them; first entry of a
            tuple. Both take classes ``(B,)`` as their second argument if ``config.conditional`` is set.
        data: a `Data`, or a tensor ``(n, *sample_shape)`` of samples; `split` makes a `Data` of samples and labels.
        config: the options; None entries become the papers' defaults. Seeding the global generator before the
            networks are built is the caller's business, as ever with PyTorch.
        constraint: what keeps the critic Lipschitz, where ``config.constraint`` does not name it.
        processes: what `distributed.launched` yields, where a launcher has started several.

    Attributes:
        config: the resolved options.
        algorithm: what an iteration does, and what it changes.
        average: moving average of the generator, which samples are drawn from; the generator itself without
            one.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        data: Data | Tensor,
        config: Config | None = None,
        *,
        constraint: Constraint | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes()
        self.data = split("samples", data) if isinstance(data, Tensor) else data
        named = dataclasses.replace(config or Config(), data=self.data.name)
        self.config = resolve(named, self.data.sample_shape, class_count(self.data))
        if self.config.batch_size % self.processes.size:
            raise UserError(
                f"--batch-size {self.config.batch_size} cannot be shared by {self.processes.size} processes: "
                "it is the batch of them all, expected a multiple of their number"
            )
        if self.config.graph == "on" and self.processes.size > 1:
            raise UserError("--graph on contradicts several processes: their steps cannot be recorded")
        self.algorithm = Algorithm(
            generator,
            critic,
            self.data,
            self.config,
            constraint or make_constraint(self.config),
            self.processes,
        )
        self.generator, self.critic = self.algorithm.generator, self.algorithm.critic
        self.average = self.algorithm.average.module
        self.constraint = self.algorithm.constraint
        self.critic_optimizer = self.algorithm.critic_optimizer
        self.generator_optimizer = self.algorithm.generator_optimizer
        self.device = self.algorithm.device
        self._stop_requested = False
        self._kept_as: tuple[Path, int] | None = None

    @property
    def iteration(self) -> int:
        """Generator iterations done."""
        return self.algorithm.iteration

    def stop(self) -> None:
        """Ask the running `train` to finish its iteration, write a checkpoint and return."""
        self._stop_requested = True

    def train(self, out: Path | None = None, on_progress: Callable[[Record], None] | None = None) -> TrainResult:
        """Run until ``config.iterations`` iterations are done.

        Args:
            out: run folder for metrics.jsonl, pictures of samples and checkpoints; without it nothing is written.
            on_progress: called with every logged record.

        Raises:
            UserError: the training diverged, the folder holds more of a run than this trainer has done, or it
                cannot be written.
        """
        try:
            return self._train(out, on_progress)
        except ProcessLost as error:
            left = iterations(out) if out else []
            advice = f"; --resume --out {out} continues from iteration {left[-1]}" if left else ""
            raise ProcessLost(f"{error} in iteration {self.iteration + 1}{advice}") from error

    def _train(self, out: Path | None, on_progress: Callable[[Record], None] | None) -> TrainResult:
        config, processes = self.config, self.processes
        synchronise(self.algorithm)
        log = None if out is None else self._open(out)
        watch = Watch(processes.mean)
        record: Record = {}
        start, saving = time.perf_counter(), 0.0
        first = self.iteration
        self._stop_requested = stopped = False
        while self.iteration < config.iterations and not stopped:
            seen, generator_loss = self.algorithm.iterate()
            watch.note(self.iteration, _figures(seen, generator_loss))
            stopped = processes.agreed(self._stop_requested)
            logged = stopped or self.iteration % config.log_every == 0 or self.iteration == config.iterations
            due = self.iteration % config.checkpoint_every == 0
            drawn = config.sample_every > 0 and self.iteration % config.sample_every == 0
            if not (logged or due or drawn or watch.full):
                continue
            try:
                figures = watch.read()
                if logged and processes.first:
                    record = self._record(figures)
                    if on_progress is not None:
                        on_progress(record)
                    if log is not None and self.iteration % config.log_every == 0:
                        log.append(record)
                stopped = stopped or (logged and processes.agreed(self._stop_requested))
                before = time.perf_counter()
                if drawn and log is not None and processes.first:
                    log.draw(self, self.iteration)
                if out is not None and (due or stopped or self.iteration == config.iterations):
                    self._save(out, compare=not stopped)
                saving += time.perf_counter() - before
            except NonFinite as problem:
                self._restore(problem, out, log)
        processes.settle()
        return TrainResult(self.iteration - first, time.perf_counter() - start - saving, record, stopped)

    def _open(self, out: Path) -> RunLog:
        """The run folder's log, up to this iteration; a checkpoint of this iteration is there to go back to."""
        log = RunLog(out, tensorboard=self.config.tensorboard and self.processes.first)
        later = [i for i in iterations(out) if i > self.iteration]
        if later:
            raise UserError(
                f"{out} holds a checkpoint of iteration {later[-1]}, and this trainer has done {self.iteration}: "
                "load() continues that run, another folder starts a new one"
            )
        self.processes.by_first(lambda: log.resume_after(self.iteration))
        if self._kept_as != (out.resolve(), self.iteration):
            try:
                self._save(out, compare=False)
            except NonFinite as problem:
                raise UserError(f"the networks cannot be trained: {problem}") from problem
        return log

    def _restore(self, problem: NonFinite, out: Path | None, log: RunLog | None) -> None:
        """Go back to the newest checkpoint with a lower learning rate, if that is wanted and not in vain so far."""
        if out is None or log is None:
            raise UserError(
                f"the training diverged: {problem}; a lower --learning-rate or a stronger constraint may help"
            ) from problem
        good = iterations(out)[-1]
        restores = self.algorithm.restores + 1
        if self.config.on_nonfinite == "stop":
            raise UserError(
                f"the training diverged: {problem}; the last good checkpoint is of iteration {good}, and "
                "--resume --on-nonfinite restore continues from it with a lower learning rate"
            ) from problem
        if restores > MAX_RESTORES:
            raise UserError(
                f"the training diverged: {problem}, after the learning rate was lowered {MAX_RESTORES} times; "
                f"the last good checkpoint is of iteration {good}"
            ) from problem
        self.load(out)
        self.algorithm.restores = restores
        self.processes.by_first(lambda: log.resume_after(self.iteration))
        if not self.processes.first:
            return
        _log.warning(
            "%s: back to the checkpoint of iteration %d, learning rate %g from there on (restore %d of at most %d)",
            problem,
            good,
            self.algorithm.learning_rate,
            restores,
            MAX_RESTORES,
        )

    def _record(self, figures: dict[str, float]) -> Record:
        """The line of metrics.jsonl for this iteration."""
        record: Record = {"iteration": self.iteration, **figures}
        if "gradient_norm" not in figures and self.algorithm.joint:
            norm = self._gradient_norm()
            if math.isfinite(norm):  # JSON has no NaN
                record["gradient_norm"] = norm
        if self.constraint.clip_value is not None:
            record["weight_saturation"] = weight_saturation(self.critic, self.constraint.clip_value)
        if self.algorithm.restores:
            record["restores"] = self.algorithm.restores
        return record

    def _gradient_norm(self) -> float:
        """Mean input-gradient norm at mixed points, drawn apart so that logging does not change the training.

        Not defined for a critic with batch statistics.
        """
        random = torch.Generator(self.device).manual_seed(self.iteration)
        conditional = self.config.conditional
        real, labels = draw_batch(self.data, self.config.batch_size, random, labelled=conditional, device=self.device)
        fake = self.sample(len(real), seed=self.iteration, labels=labels)
        condition = () if labels is None else (labels,)
        self.critic.eval()  # spectral normalisation iterates in training mode
        with torch.no_grad():
            _, norms = gradient_penalty(
                self.critic, real, fake, critic_args=condition, generator=random, return_norms=True
            )
        self.critic.train()
        return float(norms.mean())

    def sample(
        self, count: int, *, labels: int | Sequence[int] | Tensor | None = None, seed: int = 0, batch_size: int = 1024
    ) -> Tensor:
        """``(count, *sample_shape)`` samples of the averaged generator, fixed by its weights, the labels and the seed.

        Args:
            count: how many.
            labels: of a conditional run: one class for all or ``(count,)`` classes; by default in the proportions
                of the training data.
            seed: draws the noise.
            batch_size: how many are computed at a time.

        Raises:
            UserError: labels out of range, or for a run that is not conditional.
        """
        random = torch.Generator(self.device).manual_seed(seed)
        latent = draw_latent(count, self.config.latent_dim, random)
        classes = self._classes(labels, count, random)
        return generate(self.average, latent, classes, batch_size=batch_size)

    def interpolate(
        self, rows: int, columns: int = 10, *, labels: int | Sequence[int] | Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """``(rows, columns, *sample_shape)``: each row goes from one latent to another on a great circle.

        Args:
            rows: pairs of latents.
            columns: samples in a row, the two ends among them.
            labels: of a conditional run: one class for all rows or ``(rows,)`` classes; by default in the
                proportions of the training data.
            seed: draws the latents.
        """
        random = torch.Generator(self.device).manual_seed(seed)
        ends = draw_latent(2 * rows, self.config.latent_dim, random)
        classes = self._classes(labels, rows, random)
        latent = slerp(ends[:rows], ends[rows:], columns).flatten(0, 1)
        if classes is not None:
            classes = classes.repeat_interleave(columns)
        return generate(self.average, latent, classes).reshape(rows, columns, *self.data.sample_shape)

    def _classes(
        self, labels: int | Sequence[int] | Tensor | None, count: int, random: torch.Generator
    ) -> Tensor | None:
        if labels is not None:
            return as_labels(labels, count, self.config.num_classes, self.device)
        if not self.config.conditional:
            return None
        return draw_batch(self.data, count, random, labelled=True, device=self.device).labels

    def save(self, out: Path) -> None:
        """Write a checkpoint into the run folder, by the first process; all of them must call this.

        Raises:
            UserError: it cannot be written, or a weight is not finite.
        """
        try:
            self._save(out, compare=True)
        except NonFinite as problem:
            raise UserError(f"nothing was saved: {problem}") from problem

    def _save(self, out: Path, *, compare: bool) -> None:
        """Write a checkpoint, unless a weight is not finite; after every line of the log that precedes it.

        Args:
            compare: measure the distance of samples to held-out ones, by which the best checkpoint is known.
        """
        checkpoint = snapshot(self.algorithm) if self.processes.first else None
        name = self.processes.of_first(non_finite(checkpoint) if checkpoint else None)
        if name is not None:
            raise NonFinite(name, self.iteration)

        def write() -> None:
            assert checkpoint is not None
            MetricsLog(out / "metrics.jsonl").flush()
            distance = self._distance() if compare else None
            save_checkpoint(out, self.iteration, checkpoint, keep=self.config.keep_checkpoints, distance=distance)

        self.processes.by_first(write)
        self._kept_as = (out.resolve(), self.iteration)

    def _distance(self) -> float | None:
        """Sliced Wasserstein distance of samples to held-out ones, both drawn apart from the training's."""
        real = self.data.held_out(COMPARED_SAMPLES, torch.Generator().manual_seed(0))
        distance = sliced_wasserstein(self.sample(len(real)), real)
        return distance if math.isfinite(distance) else None

    def load(self, out: Path, checkpoint: str | int = "newest") -> None:
        """Continue from a checkpoint of a run folder as if the run had stopped there.

        Args:
            checkpoint: "newest", "best" (the nearest to held-out samples), or an iteration.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or it belongs to other networks.
        """
        restore(self.algorithm, load_checkpoint(out, self.device, checkpoint), out)
        self._kept_as = (out.resolve(), self.iteration)


def _figures(seen: CriticStep, generator_loss: Tensor) -> dict[str, Tensor | None]:
    return {
        "wasserstein_estimate": seen.wasserstein_estimate,
        "critic_loss": seen.loss,
        "generator_loss": generator_loss,
        "penalty": seen.penalty,
        "gradient_norm": seen.gradient_norm,
    }


def weight_saturation(critic: nn.Module, clip_value: float | tuple[float, float]) -> float:
    """Share of the critic's weights that lie at a bound of the clipping, within a thousandth of it."""
    low, high = clip_value if isinstance(clip_value, tuple) else (-clip_value, clip_value)
    margin = 1e-3 * (high - low) / 2
    with torch.no_grad():
        flat = torch.cat([p.detach().flatten() for p in critic.parameters()])
        return ((flat <= low + margin) | (flat >= high - margin)).float().mean().item()
