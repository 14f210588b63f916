"""The loop to compare with: WGAN-GP as scripts write it, after wgan_gp.py of eriklindernoren/PyTorch-GAN.

Its habits are kept: the critic's loss is differentiated through the generator too, real and generated samples are
scored one after the other, the generator's step forms the critic's weight gradients, every step takes all of
``torch.optim.Adam``'s and ``backward``'s defaults. Two things follow the paper, not that script: n_critic critic
steps come before a generator step, which draws noise of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class Textbook:
    """One iteration: n_critic critic steps and a generator step; draws in the order data, noise, alpha."""

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        batch: Callable[[], Tensor],
        *,
        latent_dim: int,
        lambda_gp: float,
        learning_rate: float,
        betas: tuple[float, float],
        n_critic: int = 5,
        forward: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.generator, self.critic, self.batch = generator, critic, batch
        self.latent_dim, self.lambda_gp, self.n_critic = latent_dim, lambda_gp, n_critic
        self.forward = forward  # what the forward passes of a step run under: autocast, say
        self.optimizer_g = torch.optim.Adam(generator.parameters(), lr=learning_rate, betas=betas)
        self.optimizer_d = torch.optim.Adam(critic.parameters(), lr=learning_rate, betas=betas)

    def iterate(self) -> None:
        for _ in range(self.n_critic):
            real = self.batch()
            self.optimizer_d.zero_grad()
            z = torch.randn(real.shape[0], self.latent_dim, device=real.device)
            with self.forward():
                fake = self.generator(z)
                real_validity = self.critic(real)
                fake_validity = self.critic(fake)
                penalty = compute_gradient_penalty(self.critic, real.data, fake.data)
                d_loss = -torch.mean(real_validity) + torch.mean(fake_validity) + self.lambda_gp * penalty
            d_loss.backward()
            self.optimizer_d.step()
            self.optimizer_g.zero_grad()
        z = torch.randn(real.shape[0], self.latent_dim, device=real.device)
        with self.forward():
            g_loss = -torch.mean(self.critic(self.generator(z)))
        g_loss.backward()
        self.optimizer_g.step()


def compute_gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    alpha = torch.rand(real.shape[0], *[1] * (real.dim() - 1), device=real.device)
    interpolates = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    validity = critic(interpolates)
    gradients = torch.autograd.grad(
        outputs=validity,
        inputs=interpolates,
        grad_outputs=torch.ones_like(validity),
        create_graph=True,
        retain_graph=True,
        only_inputs=True,
    )[0]
    gradients = gradients.view(gradients.size(0), -1)
    penalty: Tensor = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
    return penalty
