"""What test_distributed.py starts twice: ``python two_processes.py FOLDER`` with a launcher's variables set.

In double precision, in which rounding is not magnified to anything that could be taken for a mistake.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wgan_fast.penalties import gradient_penalty
from wgan_fast.training import Config, Run, Trainer, build_models
from wgan_fast.training.data.points import eight_gaussians
from wgan_fast.training.data.sets import TensorData
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.loop.distributed import Processes, launched

SMALL: dict[str, Any] = {"width": 16, "batch_size": 32, "n_critic": 2, "critic_burst": False, "log_every": 5}

CASES: dict[str, dict[str, Any]] = {
    "gp": {"data": "8gaussians", "constraint": "gp"},
    "lp": {"data": "swissroll", "constraint": "lp"},
    "clip": {"data": "8gaussians", "constraint": "clip"},
    "r1": {"data": "8gaussians", "constraint": "r1"},
    "orthogonal": {"data": "8gaussians", "constraint": "orthogonal"},
    "spectral": {"data": "8gaussians", "constraint": "spectral"},
    "conditional": {"data": "digits", "constraint": "gp", "conditional": True},
}


def config(case: str, iterations: int = 20) -> Config:
    return Config(**SMALL, **CASES[case], iterations=iterations)


def trained(case: str, processes: Processes) -> dict[str, Any]:
    """What 20 iterations leave behind: every weight, and the last line of the log."""
    trainer = build_trainer(config(case), processes)
    if isinstance(trainer.data, TensorData):
        trainer.data.train_samples = trainer.data.train_samples.double()
    last = trainer.train().last
    return {"weights": weights(trainer), "last": last}


def weights(trainer: Any) -> list[Tensor]:
    networks = (trainer.generator, trainer.critic, trainer.average.module)
    return [tensor.clone() for network in networks for tensor in network.state_dict().values()]


class Poisoned:
    """Points whose ``fatal``-th batch turns the critic's weights NaN."""

    name, sample_shape = "8gaussians", (2,)

    def __init__(self, critic: nn.Module, fatal: int) -> None:
        self.points, self.critic, self.left = eight_gaussians(), critic, fatal

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        self.left -= 1
        if self.left == 0:
            next(self.critic.parameters()).data.fill_(torch.nan)
        return self.points.batch(size, generator)

    def held_out(self, size: int, generator: torch.Generator) -> Tensor:
        return self.points.batch(size, generator)


def restored(folder: Path, processes: Processes) -> dict[str, Any]:
    """One process's weights turn NaN in iteration 7; both go back to the checkpoint of iteration 4."""
    options = dataclasses.replace(config("gp", 12), checkpoint_every=4, on_nonfinite="restore")
    generator, critic = build_models("mlp", (2,), 2, 16)
    data = Poisoned(critic, 6 * SMALL["n_critic"] + 1 if processes.rank == 1 else 0)
    trainer = Trainer(generator, critic, data, options, processes=processes)
    Run(trainer, folder / "restored").train()
    return {"weights": weights(trainer), "restores": trainer.restores}


def largest_difference_from_ddp(processes: Processes) -> float:
    """Of a WGAN-GP critic's gradients, ours and those of DistributedDataParallel's ``backward()``."""
    torch.manual_seed(3)
    critic = nn.Sequential(nn.Linear(5, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(critic))
    real, fake, alpha = (processes.part(t) for t in (torch.randn(8, 5), torch.randn(8, 5), torch.rand(8)))

    def loss(network: nn.Module, bare: nn.Module) -> Tensor:
        scores = network(torch.cat([real, fake]))
        return scores[len(real) :].mean() - scores[: len(real)].mean() + gradient_penalty(bare, real, fake, alpha=alpha)

    loss(wrapped, wrapped.module).backward()
    parameters = list(critic.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss(critic, critic), parameters), strict=True):
        parameter.grad = gradient
    processes.average_gradients(parameters)
    theirs = [p.grad for p in wrapped.parameters()]
    return max((a.grad - b).abs().max().item() for a, b in zip(parameters, theirs, strict=True))  # type: ignore[operator]


def channels_last_gradients_keep_their_layout(processes: Processes) -> bool:
    layers = [nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), nn.Linear(2, 2, dtype=torch.float32)]  # type: ignore[call-overload]
    parameters = [p for layer in layers for p in layer.parameters()]
    expected = []
    for parameter in parameters[1:]:  # the first one has no gradient
        parameter.grad = torch.randn_like(parameter)
        expected.append(parameter.grad.clone())
    processes.average_gradients(parameters)
    return parameters[0].grad is None and all(
        p.grad is not None and p.grad.stride() == p.stride() and torch.allclose(p.grad, e)
        for p, e in zip(parameters[1:], expected, strict=True)
    )


def main(folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    with launched("cpu") as processes:
        found: dict[str, Any] = {case: trained(case, processes) for case in CASES}
        written = build_trainer(config("gp", 10), processes)
        Run(written, folder / "by-two").train()
        resumed = build_trainer(config("gp"), processes)
        run = Run(resumed, folder / "by-one")
        run.load()
        run.train()
        found["resumed"] = {"weights": weights(resumed)}
        torch.manual_seed(processes.rank)
        unlike = build_trainer(config("gp", 2), processes)
        for parameter in unlike.critic.parameters():
            parameter.data.normal_()
        unlike.train()
        found["unlike"] = {"weights": weights(unlike)}
        found["restored"] = restored(folder, processes)
        found["from DDP"] = largest_difference_from_ddp(processes)
        found["layout"] = channels_last_gradients_keep_their_layout(processes)
        torch.save(found, folder / f"{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
