"""One iteration of the algorithm: n_critic critic steps and a generator step, and all that they change.

The mathematics is in steps.py; logging, checkpoints and progress are trainer.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wgan_fast.constraints import (
    Constraint,
    GradientPenalty,
    LipschitzNetwork,
    OrthogonalRegularization,
    SpectralNorm,
    WeightClipping,
)
from wgan_fast.optim import Adam, RMSprop
from wgan_fast.training.config import Resolved
from wgan_fast.training.data.sets import Data, draw_batch
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.averaging import MovingAverage
from wgan_fast.training.loop.distributed import Processes
from wgan_fast.training.loop.graphs import Capture, CudaCapture, Graphs, Rewind, Upload
from wgan_fast.training.step.precision import AUTOCAST, float32_products, make_scaler
from wgan_fast.training.step.steps import CriticStep, critic_step, generator_step, has_batch_statistics

BURST_STEPS = 100
BURST_ITERATIONS = 25
BURST_PERIOD = 500


class Algorithm:
    """Algorithm 1 of Arjovsky et al. 2017 and of Gulrajani et al. 2017, with everything it changes.

    Args:
        generator, critic: the networks, which are moved to the config's device; the constraint prepares the critic.
        data: where real samples come from.
        config: resolved options.
        constraint: what keeps the critic Lipschitz.
        processes: those that share the work; by default there is this one alone.

    Attributes:
        average: moving average of the generator.
        critic_optimizer, generator_optimizer: one for each network.
        data_order: draws the real samples; noise comes from the device's default generator.
        iteration: iterations done.
        restores: how often a diverged training went back to a checkpoint; each halves the learning rate.
        joint: whether real and generated samples are scored as one batch.
        critic_scaler, generator_scaler: the loss scaling of fp16, or None.
        graphs: the recorded steps, or None where everything runs eagerly.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        data: Data,
        config: Resolved,
        constraint: Constraint,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.data = data
        self.processes = processes or Processes()
        self.constraint = self.processes.shared(constraint)
        self.generator = generator.to(self.device).train()
        critic = critic.to(self.device)
        if config.channels_last:
            for network in (generator, critic):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.critic = _prepared(constraint, critic, data.sample_shape).train()
        self.average = MovingAverage(self.generator, config.ema_decay)
        self.critic_optimizer = make_optimizer(config, self.critic, constraint.clip_value)
        self.generator_optimizer = make_optimizer(config, generator, None)
        # Indices drawn on another device than the data's would have to be waited for.
        place = getattr(data, "device", self.device)
        self.data_order = torch.Generator(place).manual_seed(config.seed)
        self.iteration = 0
        self.restores = 0
        self.joint = not has_batch_statistics(self.critic)
        self.critic_scaler = make_scaler(config.precision, self.device)
        self.generator_scaler = make_scaler(config.precision, self.device)
        self._autocast_dtype = AUTOCAST.get(config.precision)
        self._upload = Upload(self.device)
        self.graphs: Graphs | None = None
        # Loss scaling reads a flag of the device in every step, which no graph can; of several processes every step
        # would hold a collective operation, which no machine at hand could record.
        eager = self.critic_scaler is not None or self.processes.size > 1
        if config.graph != "off" and self.device.type == "cuda" and not eager:
            self.use_graphs(CudaCapture(self.device))

    def use_graphs(self, capture: Capture) -> None:
        """Record the steps and replay them from here on; numbers that change become scalars of the device."""
        self.average.keep_share_on(self.device)
        self.graphs = Graphs(capture, self._rewind, self._frozen)
        self.reloaded()

    def reloaded(self) -> None:
        """To be called when the optimizers' states have been replaced by a checkpoint's."""
        if self.graphs is None:
            return
        self.graphs.forget()
        for optimizer in (self.critic_optimizer, self.generator_optimizer):
            keep_on_device(optimizer)

    def iterate(self) -> tuple[CriticStep, Tensor]:
        """Do one iteration; returns what its last critic step saw, and the generator's loss.

        Both are on the device; under a graph, in memory that the next iteration overwrites.
        """
        with float32_products(self.config.precision, self.device):
            self._set_schedules()
            count = self.critic_steps(self.iteration)
            seen: CriticStep
            if self.graphs is None or count != self.config.n_critic:
                for _ in range(count):
                    batch = self._batch()
                    seen = self._run("critic step", self._critic_step, batch)
                loss: Tensor = self._run("generator step", self._generator_step, batch[1:])
            else:
                batches = [tensor for _ in range(count) for tensor in self._batch()]
                seen, loss = self._run("iteration", self._whole_iteration, batches)
        self.iteration += 1
        return seen, loss

    def _run(self, name: str, step: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
        return step(*inputs) if self.graphs is None else self.graphs.run(name, step, inputs)

    def _whole_iteration(self, *batches: Tensor) -> tuple[CriticStep, Tensor]:
        size = len(batches) // self.config.n_critic
        for start in range(0, len(batches), size):
            batch = batches[start : start + size]
            seen = self._critic_step(*batch)
        return seen, self._generator_step(*batch[1:])

    def _critic_step(self, samples: Tensor, labels: Tensor | None = None) -> CriticStep:
        return critic_step(
            self.critic,
            self.generator,
            self.critic_optimizer,
            self.constraint,
            samples,
            self._latent(len(samples)),
            labels,
            loss_name=self.config.loss,
            joint=self.joint,
            autocast_dtype=self._autocast_dtype,
            scaler=self.critic_scaler,
            keep_gradients=self.graphs is not None,
            average=self.processes.average_gradients,
        )

    def _generator_step(self, labels: Tensor | None = None) -> Tensor:
        """With the classes of the last batch: they are in the proportions of the data, at no further draw."""
        loss = generator_step(
            self.critic,
            self.generator,
            self.generator_optimizer,
            self._latent(self.config.batch_size // self.processes.size if labels is None else len(labels)),
            labels,
            loss_name=self.config.loss,
            autocast_dtype=self._autocast_dtype,
            scaler=self.generator_scaler,
            keep_gradients=self.graphs is not None,
            average=self.processes.average_gradients,
        )
        self.average.update()
        return loss

    def critic_steps(self, iteration: int) -> int:
        """Critic steps in generator iteration ``iteration``, counted from 0: n_critic, or 100 in a burst."""
        burst = iteration < BURST_ITERATIONS or iteration % BURST_PERIOD == 0
        return BURST_STEPS if self.config.critic_burst and burst else self.config.n_critic

    def _batch(self) -> list[Tensor]:
        """Samples and, for a conditional pair, their classes."""
        config = self.config
        samples, labels = draw_batch(self.data, config.batch_size, self.data_order, labelled=config.conditional)
        samples = self.processes.part(samples)
        labels = None if labels is None else self.processes.part(labels)
        if config.channels_last:
            samples = samples.contiguous(memory_format=torch.channels_last)
        return [self._upload(tensor) for tensor in (samples, labels) if tensor is not None]

    def _latent(self, count: int) -> Tensor:
        """``count`` rows, this process's part of what all of them draw."""
        whole = torch.randn(count * self.processes.size, self.config.latent_dim, device=self.device)
        return self.processes.part(whole)

    @property
    def learning_rate(self) -> float:
        """Of this iteration: the config's, lowered by the decay and by restores."""
        left = 1 - self.iteration / self.config.iterations if self.config.lr_decay else 1.0
        return self.config.learning_rate * left * 0.5**self.restores

    def _set_schedules(self) -> None:
        self.average.set_schedule(self.iteration)
        if not (self.config.lr_decay or self.restores):
            return
        for optimizer in (self.critic_optimizer, self.generator_optimizer):
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(self.learning_rate)
                else:
                    group["lr"] = self.learning_rate

    def _rewind(self) -> Rewind:
        generators = [torch.default_generator]
        if self.device.type == "cuda":
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            generators.append(torch.cuda.default_generators[index])
        return Rewind(
            [self.generator, self.critic, self.average.module],
            [self.critic_optimizer, self.generator_optimizer],
            generators=generators,
        )

    def _frozen(self) -> Hashable:
        """What a recording holds for good: the constraint, and the optimizers' numbers."""
        groups = [group for o in (self.critic_optimizer, self.generator_optimizer) for group in o.param_groups]
        numbers = ((name, value) for group in groups for name, value in group.items() if name != "params")
        return repr(self.constraint), tuple((n, id(v) if isinstance(v, Tensor) else repr(v)) for n, v in numbers)


def make_constraint(config: Resolved) -> Constraint:
    """The constraint that a resolved config names."""
    constraints: dict[str, Callable[[], Constraint]] = {
        "none": Constraint,
        "clip": lambda: WeightClipping(config.clip_value),
        "gp": lambda: GradientPenalty(config.lambda_gp),
        "lp": lambda: GradientPenalty(config.lambda_gp, one_sided=True),
        "r1": lambda: GradientPenalty.r1(config.gamma),
        "r2": lambda: GradientPenalty.r2(config.gamma),
        "dragan": lambda: GradientPenalty.dragan(config.lambda_gp),
        "spectral": lambda: SpectralNorm(config.spectral_convolution),
        "orthogonal": lambda: OrthogonalRegularization(config.lambda_orthogonal, config.orthogonal_form),
        "lipschitz": LipschitzNetwork,
    }
    return constraints[config.constraint]()


def _prepared(constraint: Constraint, critic: nn.Module, sample_shape: tuple[int, ...]) -> nn.Module:
    parameter = next(critic.parameters())
    example = torch.zeros(1, *sample_shape, dtype=parameter.dtype, device=parameter.device)
    try:
        return constraint.prepare(critic, example)
    except ValueError as error:
        raise UserError(f"the constraint does not fit this critic: {error}") from error


def make_optimizer(
    config: Resolved, module: nn.Module, clip_value: float | tuple[float, float] | None
) -> torch.optim.Optimizer:
    """RMSprop or Adam as a resolved config has it; ``clip_value`` for the critic under weight clipping."""
    if config.optimizer == "rmsprop":
        return RMSprop(module.parameters(), lr=config.learning_rate, clip_value=clip_value)
    return Adam(module.parameters(), lr=config.learning_rate, betas=config.betas, clip_value=clip_value)


def keep_on_device(optimizer: torch.optim.Optimizer) -> None:
    """Make learning rates and step counts scalars of the parameters' device, where a CUDA graph can change them."""
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["capturable"] = True
        # fp64, as a Python number is: the update is then the eager one, bit for bit.
        group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float64, device=device)
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                state["step"] = state["step"].to(device)
