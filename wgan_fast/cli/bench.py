"""``wgan-fast bench``: the library's speedups on this machine, beside those published, in about a minute.

The full benchmarks, with every provider and spread, are in the repository (``python -m benchmarks``).
"""

from __future__ import annotations

import copy
import itertools
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wgan_fast

PUBLISHED = Path(__file__).with_name("published.json")
BLOCK_SECONDS = 2e-3

Work = Callable[[], Sequence[Tensor]]
"""Does the work once, and returns the results to compare."""


class Pattern(NamedTuple):
    """One row of the table: the same work in the usual lines and by the library."""

    name: str
    usual: Work
    ours: Work


def published() -> dict[str, dict[str, float]]:
    """The same table for the published machines: processor -> pattern -> ratio."""
    machines: dict[str, dict[str, float]] = json.loads(PUBLISHED.read_text())
    return machines


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"


def patterns(device: torch.device) -> list[Pattern]:
    torch.manual_seed(0)
    perceptron = _perceptron(256, 512, 512, 512).to(device)
    norms = _perceptron(256, 512, 512, 512, norm=nn.LayerNorm).to(device)
    smooth = _perceptron(256, 512, 512, 512, activation=nn.SiLU).to(device)
    priors = _perceptron(250, 1024, 512).to(device)
    convolutions = _dcgan(32).to(device)
    points = torch.randn(2, 256, 256, device=device)
    transitions = torch.randn(2, 1024, 250, device=device)
    images = torch.randn(2, 32, 3, 32, 32, device=device)
    return [
        Pattern("WGAN-GP penalty, perceptron 3x512", *_penalties(perceptron, *points)),
        Pattern("WGAN-GP penalty, convolutions 32x32", *_penalties(convolutions, *images)),
        Pattern("WGAN-GP penalty, perceptron with LayerNorm", *_penalties(norms, *points)),
        Pattern("WGAN-GP penalty, perceptron with SiLU", *_penalties(smooth, *points)),
        Pattern("loss and R1 at the same samples, 1024-512", *_shared_scores(priors, *transitions)),
        Pattern("RMSprop step and clipping, convolutions", *_clipped_steps(convolutions)),
    ]


def _perceptron(*widths: int, activation: type[nn.Module] = nn.ReLU, norm: type[nn.Module] | None = None) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), *([norm(after)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def _dcgan(width: int) -> nn.Sequential:
    channels = [3, width, 2 * width, 4 * width]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels[-1], 1))


def _penalties(critic: nn.Module, real: Tensor, fake: Tensor) -> tuple[Work, Work]:
    parameters = list(critic.parameters())
    alpha = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)

    def usual() -> Sequence[Tensor]:
        x = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
        scores = critic(x)
        (gradients,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
        penalty = 10 * ((gradients.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
        return torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)

    def ours() -> Sequence[Tensor]:
        penalty = wgan_fast.gradient_penalty(critic, real, fake, weight=10, alpha=alpha)
        return torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)

    return usual, ours


def _shared_scores(critic: nn.Module, real: Tensor, fake: Tensor) -> tuple[Work, Work]:
    parameters = list(critic.parameters())

    def loss(real_scores: Tensor, penalty: Tensor) -> Tensor:
        return F.softplus(-real_scores).mean() + F.softplus(critic(fake)).mean() + penalty

    def usual() -> Sequence[Tensor]:
        x = real.detach().requires_grad_(True)
        scores = critic(x)
        (gradients,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
        return torch.autograd.grad(loss(scores, 5 * gradients.square().sum(-1).mean()), parameters)

    def ours() -> Sequence[Tensor]:
        penalty, scores = wgan_fast.r1_penalty(critic, real, weight=5, return_scores=True)
        return torch.autograd.grad(loss(scores, penalty), parameters)

    return usual, ours


def _clipped_steps(critic: nn.Module) -> tuple[Work, Work]:
    mine, theirs = copy.deepcopy(critic), copy.deepcopy(critic)
    for network in (mine, theirs):
        for i, parameter in enumerate(network.parameters()):
            generator = torch.Generator(parameter.device).manual_seed(i)
            parameter.grad = torch.randn(parameter.shape, device=parameter.device, generator=generator)
    optimizer = torch.optim.RMSprop(theirs.parameters(), lr=5e-5)
    clipping = wgan_fast.optim.RMSprop(mine.parameters(), lr=5e-5, clip_value=0.01)

    def usual() -> Sequence[Tensor]:
        optimizer.step()
        for parameter in theirs.parameters():
            parameter.data.clamp_(-0.01, 0.01)
        return list(theirs.parameters())

    def ours() -> Sequence[Tensor]:
        clipping.step()
        return list(mine.parameters())

    return usual, ours


def _ratio(pattern: Pattern, rounds: int, device: torch.device) -> float:
    """The usual lines' median time over ours, in interleaved rounds, after comparing their results."""
    for expected, got in zip(*([each.detach() for each in work()] for work in pattern[1:]), strict=True):
        # Norms, not values: where an activation has a kink, rounding may put an input on either side of it.
        difference, size = (float(torch.linalg.vector_norm(tensor)) for tensor in (got - expected, expected))
        if not difference <= 0.01 * size + 1e-6:
            raise AssertionError(f"{pattern.name}: a difference of norm {difference:.3g} beside {size:.3g}")
    works = {"usual": pattern.usual, "ours": pattern.ours}
    repeats = {name: max(1, round(BLOCK_SECONDS / _seconds(work, 1, device))) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name in random.sample(list(works), len(works)):
            times[name].append(_seconds(works[name], repeats[name], device))
    return statistics.median(times["usual"]) / statistics.median(times["ours"])


def _seconds(work: Work, repeats: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / repeats


def print_bench(rounds: int, device: torch.device) -> None:
    """Measure, and print the table."""
    ratios = {pattern.name: _ratio(pattern, rounds, device) for pattern in patterns(device)}
    others = published()
    title = "times faster than the usual lines"
    wide = max(map(len, [*ratios, title]))
    print(f"here: {machine(device)}, torch {torch.__version__}")
    print(f"{title:<{wide}}", f"{'here':>6}", *others, sep="  ")
    for name, ratio in ratios.items():
        figures = [f"{table[name]:>{len(other)}.2f}" if name in table else "" for other, table in others.items()]
        print(f"{name:<{wide}}", f"{ratio:>6.2f}", *figures, sep="  ")
