"""R3GAN's recipe on photographs: a relativistic loss, R1 and R2 at the scored samples, a residual critic.

    python examples/r3gan.py            # 600 iterations, photos.png at the end
    python examples/r3gan.py --smoke    # 3 iterations

Huang et al. 2024 (The GAN is dead; long live the GAN! A Modern Baseline GAN): no normalisation, grouped convolutions,
biases added separately, both penalties in every step. ``score_and_gradient`` gives scores and input gradients from one
pass. The samples are 32x32 crops of the two photographs that scikit-learn ships.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

import wgan_fast

LATENT_DIM, BATCH, GAMMA, WIDTH = 64, 16, 1.0, 64


class Block(nn.Module):
    """1x1, grouped 3x3, 1x1, with biases of their own and LeakyReLU between, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.grouped = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=8, bias=False)
        self.last = nn.Conv2d(2 * width, width, 1, bias=False)
        self.bias_first, self.bias_grouped = (nn.Parameter(torch.zeros(2 * width)) for _ in range(2))
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x) + self.bias_first.view(1, -1, 1, 1), 0.2)
        h = F.leaky_relu(self.grouped(h) + self.bias_grouped.view(1, -1, 1, 1), 0.2)
        return x + self.last(h)


def critic() -> nn.Module:
    stages: list[nn.Module] = [nn.Conv2d(3, WIDTH, 1)]
    for _ in range(3):  # 32 to 4 pixels
        stages += [Block(WIDTH), nn.AvgPool2d(2)]
    return nn.Sequential(
        *stages, Block(WIDTH), nn.Conv2d(WIDTH, WIDTH, 4, groups=WIDTH), nn.Flatten(), nn.Linear(WIDTH, 1)
    )


def generator() -> nn.Module:
    stages: list[nn.Module] = [nn.Linear(LATENT_DIM, WIDTH * 16), nn.Unflatten(1, (WIDTH, 4, 4))]
    for _ in range(3):
        stages += [Block(WIDTH), nn.Upsample(scale_factor=2)]
    return nn.Sequential(*stages, Block(WIDTH), nn.Conv2d(WIDTH, 3, 1), nn.Tanh())


def crops(count: int) -> Tensor:
    """``(count, 3, 32, 32)`` in [-1, 1]: random crops, at half the size of the photographs."""
    photos = [torch.from_numpy(np.ascontiguousarray(photo[::2, ::2])) for photo in load_sample_images().images]
    samples = []
    for i in range(count):
        photo = photos[i % len(photos)]
        top, left = (int(torch.randint(size - 32, ())) for size in photo.shape[:2])
        samples.append(photo[top : top + 32, left : left + 32].permute(2, 0, 1))
    return torch.stack(samples).float() / 127.5 - 1


def critic_loss(model: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(fake) - D(real)) + gamma / 2 (R1 + R2), from one pass over both."""
    scores, gradients = wgan_fast.score_and_gradient(model, torch.cat([real, fake]))
    real_scores, fake_scores = scores.chunk(2)
    penalty = wgan_fast.gradient_norm_penalty(gradients, target=0.0, reduction="sum") / len(real)
    return F.softplus(fake_scores - real_scores).mean() + 0.5 * GAMMA * penalty


def main() -> None:
    parser = argparse.ArgumentParser(description="R3GAN's recipe on photographs")
    parser.add_argument("--smoke", action="store_true", help="3 iterations, no picture")
    smoke = parser.parse_args().smoke
    torch.manual_seed(0)
    data, g, d = crops(64 if smoke else 4096), generator(), critic()
    d_optimizer, g_optimizer = (
        wgan_fast.optim.Adam(network.parameters(), lr=2e-4, betas=(0.0, 0.99)) for network in (d, g)
    )
    iterations = 3 if smoke else 600
    for iteration in range(1, iterations + 1):
        real = data[torch.randint(len(data), (BATCH,))]
        with torch.no_grad():
            fake = g(torch.randn(BATCH, LATENT_DIM))
        loss = critic_loss(d, real, fake)
        d_optimizer.zero_grad()
        loss.backward()
        d_optimizer.step()
        difference = d(g(torch.randn(BATCH, LATENT_DIM))) - d(real).detach()
        g_optimizer.zero_grad()
        F.softplus(-difference).mean().backward()
        g_optimizer.step()
        if iteration % max(iterations // 10, 1) == 0:
            print(f"iteration {iteration:4d}   critic loss {loss.item():.3f}")
    if not smoke:
        save(g(torch.randn(64, LATENT_DIM)).detach())


def save(samples: Tensor) -> None:
    import matplotlib.pyplot as plt

    grid = samples.reshape(8, 8, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(256, 256, 3)
    plt.imsave("photos.png", ((grid + 1) / 2).clamp(0, 1).numpy())
    print("photos.png: 64 samples")


if __name__ == "__main__":
    main()
