"""A force field: the double backward that is no penalty, faster by the same context.

    python examples/force_field.py            about two minutes on two cores
    python examples/force_field.py --smoke    a few seconds

A network of linear layers, layer norms and SiLUs learns the energy of a pair of atoms from their distance. The energy
of a cluster is the sum over its pairs, the forces are its gradient with respect to the positions, and the loss is on
the forces as well: every step differentiates a gradient. The data are Lennard-Jones clusters, made here.

Two copies of the network are trained side by side on the same batches, one of them within ``exact_shortcut()``, the
only line that differs. They end with the same weights, to rounding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from wgan_fast.double_backward import exact_shortcut

ATOMS = 8
SPACING = 1.2  # spacing of the cubic grid that clusters are perturbed from, in units of sigma
BASIS = 32
CUTOFF = 3.0


def distances(positions: Tensor) -> Tensor:
    """(B, P) over the P = ATOMS (ATOMS - 1) / 2 pairs, from positions (B, ATOMS, 3)."""
    first, second = torch.triu_indices(ATOMS, ATOMS, offset=1)
    return (positions[:, first] - positions[:, second]).norm(dim=2)


def lennard_jones(positions: Tensor) -> Tensor:
    """Energies (B,) in units of epsilon: the sum over pairs of 4 (r^-12 - r^-6)."""
    inverse = distances(positions) ** -6
    return (4 * (inverse**2 - inverse)).sum(1)


def clusters(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Positions (B, ATOMS, 3), energies (B,) and forces (B, ATOMS, 3); computed in fp64, given in fp32."""
    cube = SPACING * torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3)
    shaken = cube + 0.05 * torch.randn(count, ATOMS, 3, generator=generator, dtype=torch.float64)
    positions = shaken.requires_grad_()
    energies = lennard_jones(positions)
    (gradients,) = torch.autograd.grad(energies.sum(), positions)
    return positions.detach().float(), energies.detach().float(), -gradients.float()


class PairEnergy(nn.Module):
    """The sum over pairs of a perceptron of their distance, seen through BASIS Gaussians."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.7, CUTOFF, BASIS))
        layers: list[nn.Module] = []
        for inputs in (BASIS, width, width):
            layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, positions: Tensor) -> Tensor:
        basis = torch.exp(-((distances(positions).unsqueeze(2) - self.centres) ** 2) * (BASIS / CUTOFF) ** 2 / 2)
        energies: Tensor = self.layers(basis.flatten(0, 1)).view(len(positions), -1).sum(1)
        return energies


def energies_and_forces(
    model: nn.Module, positions: Tensor, context: AbstractContextManager[Any]
) -> tuple[Tensor, Tensor]:
    positions = positions.detach().requires_grad_()
    with context:
        energies = model(positions)
    (gradients,) = torch.autograd.grad(energies.sum(), positions, create_graph=True)
    return energies, -gradients


class Run:
    """One copy of the network, trained in its own way of differentiating."""

    def __init__(self, width: int, shortcut: bool) -> None:
        torch.manual_seed(0)
        self.model = PairEnergy(width)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=5e-3)
        self.shortcut = shortcut
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self, positions: Tensor, energies: Tensor, forces: Tensor) -> None:
        start = time.perf_counter()
        predicted = energies_and_forces(self.model, positions, exact_shortcut() if self.shortcut else nullcontext())
        loss = (predicted[0] - energies).square().mean() / ATOMS + (predicted[1] - forces).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())
        self.seconds.append(time.perf_counter() - start)

    def force_error(self, positions: Tensor, forces: Tensor) -> float:
        """Root mean square over components, in epsilon / sigma."""
        _, predicted = energies_and_forces(self.model, positions, nullcontext())
        return (predicted - forces).square().mean().sqrt().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network and a few steps")
    smoke = parser.parse_args().smoke
    steps, batch, width = (100, 16, 32) if smoke else (600, 128, 128)
    generator = torch.Generator().manual_seed(0)
    held_out, _, held_out_forces = clusters(256, generator)
    runs = {"autograd alone": Run(width, shortcut=False), "exact_shortcut": Run(width, shortcut=True)}
    before = runs["autograd alone"].force_error(held_out, held_out_forces)
    for index in range(steps):
        data = clusters(batch, generator)
        order = list(runs.values())
        for run in order if index % 2 else reversed(order):
            run.step(*data)
    size = held_out_forces.square().mean().sqrt().item()
    print(f"forces: {size:.3g} in the mean, error before training {before:.3g}")
    for name, run in runs.items():
        milliseconds = 1e3 * statistics.median(run.seconds[steps // 10 :])
        print(f"{name}: {milliseconds:.2f} ms per step, force error {run.force_error(held_out, held_out_forces):.4g}")
    plain, fused = runs.values()
    first = steps // 10
    largest = max(abs(a - b) / a for a, b in zip(plain.losses[:first], fused.losses[:first], strict=True))
    gain = statistics.median(plain.seconds) / statistics.median(fused.seconds)
    print(f"gain: {gain:.2f}x; losses of the first {first} steps equal to {largest:.1e} of themselves")


if __name__ == "__main__":
    main()
