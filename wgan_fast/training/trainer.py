"""The training loop: logging, checkpoints, samples. What an iteration does is in iteration.py."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from wgan_fast.constraints import Constraint
from wgan_fast.penalties import gradient_penalty
from wgan_fast.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    nested,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from wgan_fast.training.config import Config, resolve
from wgan_fast.training.data import Data, class_count, draw_batch, split
from wgan_fast.training.errors import UserError
from wgan_fast.training.iteration import Algorithm, make_constraint
from wgan_fast.training.metrics_log import MetricsLog, Record
from wgan_fast.training.sampling import as_labels, draw_latent, generate, slerp
from wgan_fast.training.steps import CriticStep


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
    ) -> None:
        self.data = split("samples", data) if isinstance(data, Tensor) else data
        named = dataclasses.replace(config or Config(), data=self.data.name)
        self.config = resolve(named, self.data.sample_shape, class_count(self.data))
        self.algorithm = Algorithm(
            generator, critic, self.data, self.config, constraint or make_constraint(self.config)
        )
        self.generator, self.critic = self.algorithm.generator, self.algorithm.critic
        self.average = self.algorithm.average.module
        self.constraint = self.algorithm.constraint
        self.critic_optimizer = self.algorithm.critic_optimizer
        self.generator_optimizer = self.algorithm.generator_optimizer
        self.device = self.algorithm.device
        self._stop_requested = False

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
            out: run folder for metrics.jsonl and checkpoints; without it nothing is written.
            on_progress: called with every logged record.

        Raises:
            UserError: the losses are no longer finite.
        """
        config = self.config
        log = None if out is None else MetricsLog(out / "metrics.jsonl")
        if log is not None:
            log.path.parent.mkdir(parents=True, exist_ok=True)
            log.resume_after(self.iteration)
        record: Record = {}
        start = time.perf_counter()
        first = self.iteration
        self._stop_requested = False
        while self.iteration < config.iterations and not self._stop_requested:
            seen, generator_loss = self.algorithm.iterate()
            logged = self.iteration % config.log_every == 0
            if logged or self._stop_requested or self.iteration == config.iterations:
                record = self._record(seen, generator_loss)
                if on_progress is not None:
                    on_progress(record)
                if logged and log is not None:
                    log.append(record)
            if out is not None and self.iteration % config.checkpoint_every == 0:
                self.save(out)
        seconds = time.perf_counter() - start
        if out is not None and self.iteration > first:
            self.save(out)
        return TrainResult(self.iteration - first, seconds, record, self._stop_requested)

    def _record(self, seen: CriticStep, generator_loss: Tensor) -> Record:
        """Read the device's figures: the only place of the loop that waits for it."""
        record: Record = {
            "iteration": self.iteration,
            "wasserstein_estimate": seen.wasserstein_estimate.item(),
            "critic_loss": seen.loss.item(),
            "generator_loss": generator_loss.item(),
        }
        if seen.penalty is not None:
            record["penalty"] = seen.penalty.item()
        if seen.gradient_norm is not None:
            record["gradient_norm"] = seen.gradient_norm.item()
        elif self.algorithm.joint:
            record["gradient_norm"] = self._gradient_norm()
        if self.constraint.clip_value is not None:
            record["weight_saturation"] = weight_saturation(self.critic, self.constraint.clip_value)
        for name, value in record.items():
            if value != value or value in (float("inf"), float("-inf")):
                raise UserError(
                    f"the training diverged: {name} is {value} at iteration {self.iteration}; "
                    "a lower --learning-rate or a stronger constraint may help"
                )
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

    def save(self, out: Path) -> Path:
        """Write a checkpoint into the run folder; returns its place."""
        weights = {f"generator.{name}": t for name, t in self.generator.state_dict().items()}
        weights |= {f"critic.{name}": t for name, t in self.critic.state_dict().items()}
        if self.config.ema_decay:
            weights |= {f"average.{name}": t for name, t in self.average.state_dict().items()}
        state: dict[str, Any] = {
            "iteration": self.iteration,
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "data_order": self.algorithm.data_order.get_state(),
            "random": random_state(self.device),
        }
        for name, scaler in self._scalers():
            state[name] = scaler.state_dict()
        return save_checkpoint(out, self.iteration, Checkpoint(weights, state))

    def load(self, out: Path) -> None:
        """Continue from the newest checkpoint of a run folder as if the run had never stopped.

        Raises:
            UserError: there is no checkpoint, it is damaged, or it belongs to other networks.
        """
        weights, state = load_checkpoint(out, self.device)
        try:
            self.generator.load_state_dict(nested(weights, "generator"))
            self.critic.load_state_dict(nested(weights, "critic"))
            if self.config.ema_decay:
                self.average.load_state_dict(nested(weights, "average"))
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
            self.generator_optimizer.load_state_dict(state["generator_optimizer"])
            for name, scaler in self._scalers():
                scaler.load_state_dict(state[name])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{out}: its checkpoint belongs to other networks ({reason})") from error
        self.algorithm.data_order.set_state(state["data_order"].cpu())
        restore_random_state(state["random"], self.device)
        self.algorithm.iteration = state["iteration"]

    def _scalers(self) -> list[tuple[str, GradScaler]]:
        named = {"critic_scaler": self.algorithm.critic_scaler, "generator_scaler": self.algorithm.generator_scaler}
        return [(name, scaler) for name, scaler in named.items() if scaler is not None]


def weight_saturation(critic: nn.Module, clip_value: float | tuple[float, float]) -> float:
    """Share of the critic's weights that lie at a bound of the clipping, within a thousandth of it."""
    low, high = clip_value if isinstance(clip_value, tuple) else (-clip_value, clip_value)
    margin = 1e-3 * (high - low) / 2
    with torch.no_grad():
        flat = torch.cat([p.detach().flatten() for p in critic.parameters()])
        return ((flat <= low + margin) | (flat >= high - margin)).float().mean().item()
