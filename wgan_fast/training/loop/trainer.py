"""The training loop: the two networks, all that an iteration changes, and the schedule. It knows no files."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wgan_fast.constraints import Constraint, GradientPenalty
from wgan_fast.double_backward.recorded.recording import learn
from wgan_fast.training.config import Config
from wgan_fast.training.data.sets import Data, draw_batch, split
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.averaging import MovingAverage
from wgan_fast.training.loop.choices import check_processes, make_capture, make_constraint, make_optimizer, prepared
from wgan_fast.training.loop.distributed import Processes, ProcessLost
from wgan_fast.training.loop.draws import Draws
from wgan_fast.training.loop.graphs import Capture, Graphs
from wgan_fast.training.loop.health import NonFinite, Watch, gradient_norm, weight_saturation
from wgan_fast.training.loop.schedules import critic_steps, gamma, learning_rate, set_learning_rate
from wgan_fast.training.models.sampling import Labels, as_labels, draw_latent, generate, slerp
from wgan_fast.training.step.feedforward import written_out
from wgan_fast.training.step.precision import AUTOCAST, autocast, emulated, float32_products, make_scaler
from wgan_fast.training.step.steps import CriticStep, Descent, critic_step, generator_step, has_batch_statistics

Record = dict[str, Any]
"""The figures of one iteration, as numbers: what metrics.jsonl has in a line."""

_log = logging.getLogger("wgan_fast")


class TrainResult(NamedTuple):
    """``seconds`` counts this call's training alone; ``last`` is its last record; ``stopped``: `Trainer.stop` ended
    it early."""

    iterations: int
    seconds: float
    last: Record
    stopped: bool


class Trainer:
    """Trains a generator and a critic, your own or the built-in ones, by algorithm 1 of Arjovsky et al. 2017 and of
    Gulrajani et al. 2017::

        trainer = Trainer(generator, critic, data, Config(constraint="gp", iterations=1000, latent_dim=64))
        trainer.train()
        samples = trainer.sample(64)

    Args:
        generator: module from ``(B, latent_dim)`` standard normal noise to ``(B, *sample_shape)``; it is moved to the
            config's device.
        critic: module from samples to scores, ``(B,)`` or ``(B, 1)`` or a map of them; first entry of a
            tuple. Both take classes ``(B,)`` as their second argument if ``config.conditional`` is set.
        data: a `Data`, or a tensor ``(n, *sample_shape)`` of samples; `split` makes a `Data` of samples and labels.
        config: the options; by default those of ``Config(sample_shape=data.sample_shape)``. Seeding the global
            generator before the networks are built is left to the caller.
        constraint: what keeps the critic Lipschitz, where ``config.constraint`` does not name it.
        processes: what `distributed.launched` yields, where a launcher has started several.
        capture: what records iterations; by default CUDA graphs, where ``config.graph`` and the device allow them.

    Attributes:
        config: the options, with the name and the number of classes of the data.
        critic: the critic that is trained; the constraint may have replaced the one passed.
        average: moving average of the generator; samples are drawn from ``average.module``.
        critic_optimizer, generator_optimizer: one for each network.
        draws: real samples, noise and the penalty's points.
        watch: the figures of the iterations that have not been read from the device.
        iteration: generator iterations done.
        restores: how often a diverged training was restored from a checkpoint; each halves the learning rate.
        critic_scaler, generator_scaler: the loss scaling of fp16, or None.
        graphs: the recorded steps, or None where everything runs eagerly.
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
        capture: Capture | None = None,
    ) -> None:
        self.processes = processes or Processes()
        self.data = split("samples", data) if isinstance(data, Tensor) else data
        self.config = (config or Config(sample_shape=self.data.sample_shape)).matched_with(self.data)
        check_processes(self.config, self.processes.size)
        self.device = torch.device(self.config.device)
        self.constraint = constraint or make_constraint(self.config)
        self.generator = self._placed(generator).train()
        self.critic = prepared(self.constraint, self._placed(critic), self.data.sample_shape).train()
        capture = capture or make_capture(self.config, self.device, self.processes.size)
        share_on = self.device if capture is not None else None
        self.average = MovingAverage(self.generator, self.config.ema_decay, share_on=share_on)
        self.critic_optimizer = make_optimizer(self.config, self.critic, self.constraint.clip_value)
        self.generator_optimizer = make_optimizer(self.config, self.generator, None)
        self.critic_scaler = make_scaler(self.config.precision, self.device)
        self.generator_scaler = make_scaler(self.config.precision, self.device)
        self.draws = Draws(self.data, self.config, self.device, self.processes)
        self.iteration = 0
        self.restores = 0
        self.watch = Watch(self.processes.mean_)
        self._stop_requested = False
        self.graphs = Graphs(capture, self.networks(), self._optimizers(), self.device) if capture is not None else None
        self._choose_steps()

    def _placed(self, network: nn.Module) -> nn.Module:
        network = network.to(self.device)
        if self.config.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _choose_steps(self) -> None:
        """What all steps of this trainer have in common."""
        precision = self.config.precision
        if self.processes.first and emulated(precision, self.device):
            _log.warning("--precision bf16 will be some 20 times slower than fp32: this CPU has no instructions for it")
        self._critic_descent = Descent(
            AUTOCAST.get(precision), self.critic_scaler, self.graphs is not None, self.processes.average_gradients
        )
        self._generator_descent = self._critic_descent._replace(scaler=self.generator_scaler)
        self._joint = not has_batch_statistics(self.critic)
        self._layers = written_out(self.critic, self.constraint) if self.critic_scaler is None else None
        if self._layers is None and isinstance(self.constraint, GradientPenalty):
            self._learn_critic()
        decaying = self.constraint.scored and self.config.gamma_decay != "none"
        self._penalty_scale = torch.ones((), device=self.device) if decaying else None

    def _learn_critic(self) -> None:
        """So that the first step of a resumed run is computed as it would have been without the interruption."""
        x = torch.zeros(2, *self.data.sample_shape, device=self.device)
        classes = [torch.zeros(2, dtype=torch.int64, device=self.device)] if self.config.conditional else []
        with autocast(self.device.type, self._critic_descent.autocast_dtype):
            learn(self.critic, x, classes)

    # --------------------------------------------------------------------------------------------------- the loop

    def train(
        self,
        on_record: Callable[[Record], None] | None = None,
        *,
        after_iteration: Callable[[Record | None, bool], None] = lambda record, stopped: None,
        recover: Callable[[NonFinite], None] | None = None,
    ) -> TrainResult:
        """Run until ``config.iterations`` iterations are done; `run.folder.Run` does so in a folder, with checkpoints.

        Args:
            on_record: called with every record, by the first of several processes.
            after_iteration: called with the iteration's record, if it has one, and with whether the training stops
                here; its time is not counted.
            recover: called when the training has diverged, to restore an earlier state; by default a `UserError`.

        Raises:
            UserError: the training diverged, or another process was lost.
        """
        self._synchronise()
        first, seconds, last, stopped = self.iteration, 0.0, Record(), False
        try:
            while self.iteration < self.config.iterations and not stopped:
                start = time.perf_counter()
                try:
                    record = self.iterate()
                    if record is not None:
                        last = record
                        if on_record is not None:
                            on_record(record)
                    stopped = self.processes.agreed(self._stop_requested)
                    if stopped:
                        self.watch.read()
                    seconds += time.perf_counter() - start
                    after_iteration(record, stopped)
                except NonFinite as problem:
                    if recover is None:
                        advice = "a lower --learning-rate or a stronger constraint may help"
                        raise UserError(f"the training diverged: {problem}; {advice}") from problem
                    recover(problem)
            self.processes.settle()
        except ProcessLost as error:
            raise ProcessLost(f"{error} in iteration {self.iteration + 1}") from error
        finally:
            self._stop_requested = False
        return TrainResult(self.iteration - first, seconds, last, stopped)

    def stop(self) -> None:
        """Ask `train` to finish its iteration and return."""
        self._stop_requested = True

    def _synchronise(self) -> None:
        """Give every process the first one's weights and random generators."""
        if self.processes.size > 1:
            networks = self.networks()
            first = self.processes.by_first(lambda: {name: t.cpu() for name, t in networks.state_dict().items()})
            networks.load_state_dict(first)
            self.draws.synchronise()

    def iterate(self) -> Record | None:
        """Do one iteration: draw from the data, n_critic critic steps, a generator step, average.

        Returns:
            The record where one is due, every ``config.log_every`` iterations and after the last, in the first
            process; all other iterations return None without waiting for the device.

        Raises:
            NonFinite: of the first iteration since the figures were last read that was not finite.
        """
        with float32_products(self.config.precision, self.device):
            self._set_schedules()
            count = critic_steps(self.config, self.iteration)
            if self.graphs is None or count != self.config.n_critic or self.config.lazy > 1:
                seen, loss = self._step_by_step(count)
            else:
                batches = [tensor for _ in range(count) for tensor in self.draws.batch()]
                seen, loss = self._run("iteration", self._whole_iteration, batches)
        self.iteration += 1
        figures: dict[str, Tensor | None] = {
            "wasserstein_estimate": seen.wasserstein_estimate,
            "critic_loss": seen.loss,
            "generator_loss": loss,
        }
        if self.config.lazy == 1:  # else most steps have no penalty
            figures |= {"penalty": seen.penalty, "gradient_norm": seen.gradient_norm}
        self.watch.note(self.iteration, figures)
        due = self.iteration % self.config.log_every == 0 or self.iteration == self.config.iterations
        if due or self.watch.full:
            last = self.watch.read()
        return self._record(last) if due and self.processes.first else None

    def _set_schedules(self) -> None:
        config, iteration = self.config, self.iteration
        self.average.set_schedule(iteration)
        if self._penalty_scale is not None:
            self._penalty_scale.fill_(gamma(config, iteration) / config.gamma if config.gamma else 1.0)
        if config.lr_decay or self.restores:
            set_learning_rate(self._optimizers(), learning_rate(config, iteration, self.restores))

    def _step_by_step(self, count: int) -> tuple[CriticStep, Tensor]:
        for i in range(count):
            batch = self.draws.batch()
            skipped = (self.iteration * self.config.n_critic + i) % self.config.lazy > 0
            name = "critic step without penalty" if skipped else "critic step"
            seen = self._run(name, partial(self._critic_step, penalised=not skipped), batch)
        return seen, self._run("generator step", self._generator_step, batch)

    def _run(self, name: str, step: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
        """``step(*inputs)``, as a graph of that name where steps are recorded."""
        return step(*inputs) if self.graphs is None else self.graphs.run(name, step, inputs, repr(self.constraint))

    def _whole_iteration(self, *batches: Tensor) -> tuple[CriticStep, Tensor]:
        size = len(batches) // self.config.n_critic
        for start in range(0, len(batches), size):
            batch = batches[start : start + size]
            seen = self._critic_step(*batch)
        return seen, self._generator_step(*batch)

    def _critic_step(self, samples: Tensor, labels: Tensor | None = None, *, penalised: bool = True) -> CriticStep:
        constraint = self.constraint if penalised else Constraint()
        return critic_step(
            self.critic,
            self.generator,
            self.critic_optimizer,
            constraint,
            samples,
            self.draws.latent(len(samples)),
            labels,
            loss_name=self.config.loss,
            joint=self._joint,
            layers=self._layers if penalised else None,
            alpha=self.draws.alpha(constraint, samples),
            penalty_scale=self._penalty_scale,
            descent=self._critic_descent,
        )

    def _generator_step(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """Uses the critic's last batch: its classes are in the proportions of the data, without another draw."""
        loss = generator_step(
            self.critic,
            self.generator,
            self.generator_optimizer,
            self.draws.latent(len(samples)),
            labels,
            real=samples if self.config.loss == "relativistic" else None,
            loss_name=self.config.loss,
            descent=self._generator_descent,
        )
        self.average.update()
        return loss

    # -------------------------------------------------------------------------------------- what an iteration changes

    def networks(self) -> nn.ModuleDict:
        """The modules that an iteration changes, by name."""
        average = {"average": self.average.module} if self.config.ema_decay else {}
        return nn.ModuleDict({"generator": self.generator, "critic": self.critic, **average})

    def _optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        return self.critic_optimizer, self.generator_optimizer

    # ------------------------------------------------------------------------------------------- figures and samples

    def _record(self, figures: dict[str, float]) -> Record:
        record: Record = {"iteration": self.iteration, **figures}
        if "gradient_norm" not in figures and self._joint:  # which is not defined for a critic with batch statistics
            random = torch.Generator(self.device).manual_seed(self.iteration)  # separate: no change to the training
            drawn = draw_batch(self.data, self.config.batch_size, random, labelled=self.config.conditional)
            real, *labels = (tensor.to(self.device) for tensor in drawn if tensor is not None)
            fake = self.sample(len(real), seed=self.iteration, labels=drawn.labels)
            norm = gradient_norm(self.critic, real, fake, labels, random)
            if math.isfinite(norm):  # JSON has no NaN
                record["gradient_norm"] = norm
        if self.constraint.clip_value is not None:
            record["weight_saturation"] = weight_saturation(self.critic, self.constraint.clip_value)
        if self.restores:
            record["restores"] = self.restores
        return record

    def sample(self, count: int, *, labels: Labels | None = None, seed: int = 0, batch_size: int = 1024) -> Tensor:
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
        return generate(self.average.module, latent, classes, batch_size=batch_size)

    def interpolate(self, rows: int, columns: int = 10, *, labels: Labels | None = None, seed: int = 0) -> Tensor:
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
        return generate(self.average.module, latent, classes).reshape(rows, columns, *self.data.sample_shape)

    def _classes(self, labels: Labels | None, count: int, random: torch.Generator) -> Tensor | None:
        if labels is not None:
            return as_labels(labels, count, self.config.num_classes, self.device)
        if not self.config.conditional:
            return None
        labels = draw_batch(self.data, count, random, labelled=True).labels
        return None if labels is None else labels.to(self.device)
