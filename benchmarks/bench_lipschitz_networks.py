"""Critics that are 1-Lipschitz by construction, beside deel-torchlip's: time per step, and the estimate of a known W1.

The task is the dual of W1 between two fixed point sets in the plane, 8 Gaussians and a normal distribution of 512
points each, whose exact distance POT computes: the critic climbs E[D(a)] - E[D(b)] on all points, with Adam. Both
libraries get the same architecture, sorted pairs as activation, learning rate and number of steps; ours has the Cayley
transform's orthonormal matrices, deel-torchlip power iteration and Björck's. The times go to lipschitz_networks.csv;
the estimates over three seeds to lipschitz_networks.json: estimate / exact after all steps, and the largest
input-gradient norm found, of which 1 is allowed.

deel-torchlip is an extra: pip install "wgan-fast[bench]". Without it our own rows are written alone.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import Case, Provider, main
from benchmarks.critics import perceptron
from benchmarks.schema import OURS
from wgan_fast.nn import to_lipschitz
from wgan_fast.training.data.points import eight_gaussians
from wgan_fast.training.report.metrics import wasserstein_1

POINTS, STEPS, LEARNING_RATE, SEEDS = 512, 300, 2e-3, 3
THEIRS = "deel-torchlip"


def torchlip() -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module("deel.torchlip")
    except ImportError:
        return None


def ours(width: int) -> nn.Module:
    return to_lipschitz(perceptron([2, width, width, width]))


def theirs(width: int) -> nn.Module:
    library = torchlip()
    layers = [library.SpectralLinear(2, width), library.GroupSort2()]
    for _ in range(2):
        layers += [library.SpectralLinear(width, width), library.GroupSort2()]
    return nn.Sequential(*layers, library.SpectralLinear(width, 1))


def providers() -> dict[str, Callable[[int], nn.Module]]:
    found: dict[str, Callable[[int], nn.Module]] = {OURS: ours}
    return found if torchlip() is None else {**found, THEIRS: theirs}


def point_sets(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return eight_gaussians().batch(POINTS, generator), torch.randn(POINTS, 2, generator=generator)


def stepper(critic: nn.Module, a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    optimizer = torch.optim.Adam(critic.parameters(), lr=LEARNING_RATE)

    def step() -> Tensor:
        scores = critic(torch.cat([a, b]))
        estimate: Tensor = scores[: len(a)].mean() - scores[len(a) :].mean()
        optimizer.zero_grad()
        (-estimate).backward()
        optimizer.step()
        return estimate.detach()

    return step


def cases() -> Iterator[Case]:
    a, b = point_sets(0)
    for width in (128, 512):
        timed = {}
        for name, make in providers().items():
            torch.manual_seed(0)
            timed[name] = Provider(stepper(make(width), a, b), (list) if name == OURS else None)
        yield Case("lipschitz_step", f"3x{width}, 2 x {POINTS} points", 0, timed)


def estimates(width: int = 128) -> dict[str, Any]:
    """For each library and seed: estimate / exact W1, and the largest gradient norm at the points and between them."""
    found: dict[str, Any] = {"steps": STEPS, "width": width, "learning_rate": LEARNING_RATE, "exact": []}
    for seed in range(SEEDS):
        a, b = point_sets(seed)
        exact = wasserstein_1(a, b)
        found["exact"].append(exact)
        for name, make in providers().items():
            torch.manual_seed(seed)
            critic = make(width)
            step = stepper(critic, a, b)
            for _ in range(STEPS):
                step()
            critic.eval()
            x = torch.cat([a, b, torch.lerp(a, b, torch.rand(POINTS, 1))]).requires_grad_()
            scores = critic(x)
            (gradients,) = torch.autograd.grad(scores.sum(), x)
            scores = scores.detach()
            estimate = float(scores[:POINTS].mean() - scores[POINTS : 2 * POINTS].mean())
            entry = found.setdefault(name, {"ratio": [], "largest_gradient_norm": []})
            entry["ratio"].append(estimate / exact)
            entry["largest_gradient_norm"].append(float(gradients.norm(dim=1).max()))
    return found


if __name__ == "__main__":
    folder = main("lipschitz_networks", cases)
    measured = estimates()
    (folder / "lipschitz_networks.json").write_text(json.dumps(measured, indent=2) + "\n")
    for name in providers():
        print(name, {key: [round(v, 4) for v in values] for key, values in measured[name].items()})
