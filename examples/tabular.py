"""A table of mixed columns by a packed WGAN-GP critic, as CTGAN has it, on real data.

    python examples/tabular.py            # 3000 iterations, a minute or two on two cores
    python examples/tabular.py --smoke    # 30 iterations

The rows are scikit-learn's diabetes study: ages, blood values, the sex of 442 patients, and the progression of the
disease. The critic scores ten rows at a time (PacGAN, Lin et al. 2018), so that it detects a generator that repeats
itself; the penalty's norm is that of the gradient with respect to all ten (Xu et al. 2019, CTGAN). At the end each
column's Wasserstein distance to held-out rows is printed beside that of the training rows themselves.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import wasserstein_distance
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

import wgan_fast

LATENT_DIM, PAC, ROWS = 16, 10, 200


def table() -> tuple[Tensor, Tensor, list[str]]:
    """Training and held-out rows, numbers standardised and the sex as two columns, one of which is 1."""
    bunch = load_diabetes(scaled=False)
    names = [*bunch.feature_names, "progression"]
    values = np.column_stack([bunch.data, bunch.target])
    sex = torch.tensor(values[:, 1], dtype=torch.long) - 1
    numbers = np.delete(values, 1, axis=1)
    numbers = torch.tensor((numbers - numbers.mean(0)) / numbers.std(0), dtype=torch.float32)
    rows = torch.cat([numbers, F.one_hot(sex, 2)], dim=1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return rows[order[:342]], rows[order[342:]], [*(name for name in names if name != "sex"), "sex"]


class Generator(nn.Module):
    """Numbers as they come, the category by Gumbel-softmax, so that its choice has a gradient."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.net = nn.Sequential(
            nn.Linear(LATENT_DIM, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, numbers + 2)
        )

    def forward(self, latent: Tensor) -> Tensor:
        numbers, category = self.net(latent).split([self.numbers, 2], dim=1)
        return torch.cat([numbers, F.gumbel_softmax(category, tau=0.2)], dim=1)


class PackedCritic(nn.Module):
    """(B, columns) rows to (B / PAC, 1) scores."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.net = nn.Sequential(
            nn.Linear(PAC * columns, 128),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.5),
            nn.Linear(128, 128),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.5),
            nn.Linear(128, 1),
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.net(rows.reshape(-1, PAC * self.columns))


def train(real: Tensor, iterations: int) -> Generator:
    columns = real.shape[1]
    generator, critic = Generator(columns - 2), PackedCritic(columns)
    optimizers = [
        wgan_fast.optim.Adam(network.parameters(), lr=5e-4, betas=(0.5, 0.9), weight_decay=1e-6)
        for network in (critic, generator)
    ]
    for iteration in range(1, iterations + 1):
        batch = real[torch.randint(len(real), (ROWS,))]
        fake = generator(torch.randn(ROWS, LATENT_DIM)).detach()
        estimate = critic(batch).mean() - critic(fake).mean()
        penalty = wgan_fast.compat.packed_gradient_penalty(critic, batch, fake, pac=PAC, lambda_=10.0)
        step(penalty - estimate, optimizers[0])
        step(-critic(generator(torch.randn(ROWS, LATENT_DIM))).mean(), optimizers[1])
        if iteration % max(iterations // 5, 1) == 0:
            print(f"iteration {iteration:5d}   Wasserstein estimate {estimate.item():6.3f}")
    return generator


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def distances(rows: Tensor, held_out: Tensor) -> list[float]:
    """One per column: W1 between the marginals, in standard deviations (the category: difference of shares)."""
    pairs = zip(rows[:, :-1].T, held_out[:, :-1].T, strict=True)
    return [float(wasserstein_distance(ours.numpy(), theirs.numpy())) for ours, theirs in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description="A packed WGAN-GP on a table")
    parser.add_argument("--smoke", action="store_true", help="30 iterations")
    torch.manual_seed(0)
    real, held_out, names = table()
    generator = train(real, 30 if parser.parse_args().smoke else 3000)
    with torch.no_grad():
        fake = generator(torch.randn(1000, LATENT_DIM))
    print(f"\n{'W1 to held-out rows':>20}  generated  training")
    for name, ours, baseline in zip(names, distances(fake, held_out), distances(real, held_out), strict=True):
        print(f"{name:>20}  {ours:9.3f}  {baseline:8.3f}")


if __name__ == "__main__":
    main()
