"""The training loop: state, schedule, checkpoints, metrics. The mathematics is in steps.py."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wgan_fast.constraints import Constraint, GradientPenalty, WeightClipping
from wgan_fast.optim import Adam, RMSprop
from wgan_fast.penalties import gradient_penalty
from wgan_fast.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    nested,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from wgan_fast.training.config import Config, Resolved, resolve
from wgan_fast.training.data import Data, split
from wgan_fast.training.errors import UserError
from wgan_fast.training.metrics_log import MetricsLog, Record
from wgan_fast.training.steps import CriticStep, critic_step, generator_step, has_batch_statistics

BURST_STEPS = 100
BURST_ITERATIONS = 25
BURST_PERIOD = 500


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
            tuple.
        data: a `Data`, or a tensor ``(n, *sample_shape)`` of samples.
        config: the options; None entries become the papers' defaults. Seeding the global generator before the
            networks are built is the caller's business, as ever with PyTorch.
        constraint: what keeps the critic Lipschitz, where ``config.constraint`` does not name it.

    Attributes:
        config: the resolved options.
        average: moving average of the generator, which samples are drawn from; the generator itself without
            one.
        iteration: generator iterations done.
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
        self.config = resolve(named, self.data.sample_shape)
        self.device = torch.device(self.config.device)
        self.generator = generator.to(self.device).train()
        self.critic = critic.to(self.device).train()
        decay = self.config.ema_decay
        self.average = copy.deepcopy(generator).eval().requires_grad_(False) if decay else generator
        self.constraint = constraint or make_constraint(self.config)
        self.critic_optimizer = make_optimizer(self.config, critic, self.constraint.clip_value)
        self.generator_optimizer = make_optimizer(self.config, generator, None)
        self.iteration = 0
        self._joint = not has_batch_statistics(critic)
        self._data_order = torch.Generator(self.device).manual_seed(self.config.seed)
        self._stop_requested = False

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
            seen, generator_loss = self._one_iteration()
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

    def critic_steps(self, iteration: int) -> int:
        """Critic steps in generator iteration ``iteration``, counted from 0: n_critic, or 100 in a burst."""
        burst = iteration < BURST_ITERATIONS or iteration % BURST_PERIOD == 0
        return BURST_STEPS if self.config.critic_burst and burst else self.config.n_critic

    def _one_iteration(self) -> tuple[CriticStep, Tensor]:
        config = self.config
        self._set_learning_rate()
        for _ in range(self.critic_steps(self.iteration)):
            real = self.data.batch(config.batch_size, self._data_order).to(self.device)
            latent = torch.randn(config.batch_size, config.latent_dim, device=self.device)
            seen = critic_step(
                self.critic,
                self.generator,
                self.critic_optimizer,
                self.constraint,
                real,
                latent,
                joint=self._joint,
            )
        latent = torch.randn(config.batch_size, config.latent_dim, device=self.device)
        loss = generator_step(self.critic, self.generator, self.generator_optimizer, latent)
        self._update_average()
        self.iteration += 1
        return seen, loss

    def _set_learning_rate(self) -> None:
        if not self.config.lr_decay:
            return
        left = 1 - self.iteration / self.config.iterations
        for optimizer in (self.critic_optimizer, self.generator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * left

    @torch.no_grad()
    def _update_average(self) -> None:
        if not self.config.ema_decay:
            return
        decay = min(self.config.ema_decay, (1 + self.iteration) / (10 + self.iteration))
        mine = [*self.average.parameters(), *self.average.buffers()]
        theirs = [*self.generator.parameters(), *self.generator.buffers()]
        pairs = list(zip(mine, theirs, strict=True))
        floating = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], 1 - decay)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)

    def _record(self, seen: CriticStep, generator_loss: Tensor) -> Record:
        """Read the device's figures: the only place of the loop that waits for it."""
        record: Record = {
            "iteration": self.iteration,
            "wasserstein_estimate": seen.wasserstein_estimate.item(),
            "critic_loss": seen.loss.item(),
            "generator_loss": generator_loss.item(),
        }
        if seen.penalty is not None and seen.gradient_norm is not None:
            record["penalty"] = seen.penalty.item()
            record["gradient_norm"] = seen.gradient_norm.item()
        elif self._joint:
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
        real = self.data.batch(self.config.batch_size, random).to(self.device)
        fake = self.sample(len(real), seed=self.iteration)
        with torch.no_grad():
            _, norms = gradient_penalty(self.critic, real, fake, generator=random, return_norms=True)
        return float(norms.mean())

    def sample(self, count: int, *, seed: int = 0, batch_size: int = 1024) -> Tensor:
        """``(count, *sample_shape)`` samples of the averaged generator, fixed by its weights and the seed."""
        return sample(self.average, self.config.latent_dim, count, seed=seed, batch_size=batch_size)

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
            "data_order": self._data_order.get_state(),
            "random": random_state(self.device),
        }
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
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{out}: its checkpoint belongs to other networks ({reason})") from error
        self._data_order.set_state(state["data_order"].cpu())
        restore_random_state(state["random"], self.device)
        self.iteration = state["iteration"]


def sample(generator: nn.Module, latent_dim: int, count: int, *, seed: int = 0, batch_size: int = 1024) -> Tensor:
    """``(count, *sample_shape)`` samples, drawn in evaluation mode with their own random generator."""
    parameter = next(generator.parameters())
    random = torch.Generator(parameter.device).manual_seed(seed)
    mode = generator.training
    generator.eval()
    with torch.no_grad():
        latent = torch.randn(count, latent_dim, generator=random, device=parameter.device)
        samples = torch.cat([generator(part) for part in torch.split(latent, batch_size)])
    generator.train(mode)
    return samples


def make_constraint(config: Resolved) -> Constraint:
    """The constraint that a resolved config names."""
    if config.constraint == "clip":
        return WeightClipping(config.clip_value)
    return GradientPenalty(config.lambda_gp, one_sided=config.constraint == "lp")


def make_optimizer(
    config: Resolved, module: nn.Module, clip_value: float | tuple[float, float] | None
) -> torch.optim.Optimizer:
    """RMSprop or Adam as a resolved config has it; ``clip_value`` for the critic under weight clipping."""
    if config.optimizer == "rmsprop":
        return RMSprop(module.parameters(), lr=config.learning_rate, clip_value=clip_value)
    return Adam(module.parameters(), lr=config.learning_rate, betas=config.betas, clip_value=clip_value)


def weight_saturation(critic: nn.Module, clip_value: float | tuple[float, float]) -> float:
    """Share of the critic's weights that lie at a bound of the clipping, within a thousandth of it."""
    low, high = clip_value if isinstance(clip_value, tuple) else (-clip_value, clip_value)
    margin = 1e-3 * (high - low) / 2
    with torch.no_grad():
        flat = torch.cat([p.detach().flatten() for p in critic.parameters()])
        return ((flat <= low + margin) | (flat >= high - margin)).float().mean().item()
