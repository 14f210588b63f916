"""R1 on the features of a frozen network, judged by small heads of GroupNorm and SiLU, with a condition.

    python examples/conditional_distillation_critic.py            # 200 updates
    python examples/conditional_distillation_critic.py --smoke    # 3 updates

Critics of diffusion distillation (LADD, Sauer et al. 2024, and its relatives) are heads on the features of a frozen
teacher; the penalty is taken at the features, so nothing has to be differentiated through the teacher. The heads have
norms and smooth activations, whose second derivatives are not zero: the library computes each in one kernel, with
autograd's results. The teacher here is a small network trained briefly to recognise digits.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import wgan_fast

CHANNELS, CLASSES, BATCH, GAMMA = 32, 10, 64, 1.0


class Head(nn.Module):
    """From features (B, C, 8, 8) and classes (B,) to scores (B,), with a projection of the class."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.GroupNorm(4, CHANNELS),
            nn.SiLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.GroupNorm(4, CHANNELS),
            nn.SiLU(),
        )
        self.score = nn.Linear(CHANNELS, 1)
        self.embedding = nn.Embedding(CLASSES, CHANNELS)

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        pooled = self.body(features).mean((2, 3))
        return self.score(pooled).squeeze(1) + (pooled * self.embedding(classes)).sum(1)


def teacher(images: Tensor, classes: Tensor) -> nn.Module:
    """Convolutions that recognise digits after a few steps; frozen."""
    features = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1), nn.SiLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.SiLU()
    )
    head = nn.Linear(CHANNELS, CLASSES)
    optimizer = torch.optim.Adam([*features.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(30):
        chosen = torch.randint(len(images), (256,))
        loss = F.cross_entropy(head(features(images[chosen]).mean((2, 3))), classes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return features.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description="R1 on the features of a frozen network")
    parser.add_argument("--smoke", action="store_true", help="3 updates")
    updates = 3 if parser.parse_args().smoke else 200
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    classes = torch.tensor(digits.target)
    frozen = teacher(images, classes)
    heads = Head()
    optimizer = wgan_fast.optim.Adam(heads.parameters(), lr=1e-3, betas=(0.0, 0.99))
    for update in range(1, updates + 1):
        chosen = torch.randint(len(images), (BATCH,))
        real, labels = images[chosen], classes[chosen]
        fake = real + 0.5 * torch.randn_like(real)  # in place of a student's samples
        with torch.no_grad():
            real_features, fake_features = frozen(real), frozen(fake)
        penalty, real_scores = wgan_fast.r1_penalty(
            heads, real_features, weight=GAMMA / 2, critic_args=(labels,), return_scores=True
        )
        loss = F.relu(1 - real_scores).mean() + F.relu(1 + heads(fake_features, labels)).mean() + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % max(updates // 10, 1) == 0:
            print(f"update {update:4d}   hinge loss and penalty {loss.item():.3f}   R1 {penalty.item():.4f}")


if __name__ == "__main__":
    main()
