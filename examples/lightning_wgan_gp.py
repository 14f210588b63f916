"""WGAN-GP as a LightningModule, on handwritten digits.

    pip install "wgan-fast[examples]"
    python examples/lightning_wgan_gp.py            # 100 epochs
    python examples/lightning_wgan_gp.py --smoke    # one epoch

The module uses manual optimisation.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import wgan_fast

LATENT_DIM, N_CRITIC = 32, 5


class WGANGP(lightning.LightningModule):
    def __init__(self, lambda_gp: float = 10.0) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.lambda_gp = lambda_gp
        self.generator = nn.Sequential(nn.Linear(LATENT_DIM, 256), nn.ReLU(), nn.Linear(256, 64), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(64, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))

    def configure_optimizers(self) -> Any:
        return [
            wgan_fast.optim.Adam(network.parameters(), lr=5e-4, betas=(0.5, 0.9))
            for network in (self.critic, self.generator)
        ]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        critic_optimizer, generator_optimizer = self.optimizers()
        with torch.no_grad():
            fake = self.generator(self.latent(len(real)))
        estimate = self.critic(real).mean() - self.critic(fake).mean()
        penalty = wgan_fast.gradient_penalty(self.critic, real, fake, weight=self.lambda_gp)
        critic_optimizer.zero_grad()
        self.manual_backward(penalty - estimate)
        critic_optimizer.step()
        self.log_dict({"wasserstein_estimate": estimate, "gradient_penalty": penalty}, on_step=False, on_epoch=True)
        if (batch_idx + 1) % N_CRITIC == 0:
            self.toggle_optimizer(generator_optimizer)  # no weight gradients for the critic
            generator_optimizer.zero_grad()
            self.manual_backward(-self.critic(self.generator(self.latent(len(real)))).mean())
            generator_optimizer.step()
            self.untoggle_optimizer(generator_optimizer)

    def latent(self, count: int) -> Tensor:
        return torch.randn(count, LATENT_DIM, device=self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description="WGAN-GP with Lightning")
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    lightning.seed_everything(0, verbose=False)
    digits = TensorDataset(torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1)
    trainer = lightning.Trainer(
        max_epochs=1 if parser.parse_args().smoke else 100,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(WGANGP(), DataLoader(digits, batch_size=64, shuffle=True, drop_last=True))
    print({name: round(value.item(), 4) for name, value in trainer.logged_metrics.items()})


if __name__ == "__main__":
    main()
