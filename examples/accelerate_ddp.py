"""WGAN-GP on two processes by Accelerate (gloo on CPUs, NCCL on GPUs); on handwritten digits.

    pip install "wgan-fast[examples]"
    accelerate launch --cpu --num_processes 2 examples/accelerate_ddp.py
    torchrun --nproc-per-node 2 examples/accelerate_ddp.py --smoke

DistributedDataParallel averages the gradients that ``backward`` accumulates, so the penalty is part of the loss as
always: every process penalises its own samples, and the average is the penalty of the joined batch.
``broadcast_buffers=False``, since two forward passes before one backward fail otherwise (pytorch/pytorch#175024).
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import wgan_fast

LATENT_DIM, N_CRITIC = 32, 5


def main() -> None:
    parser = argparse.ArgumentParser(description="WGAN-GP on several processes")
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    epochs = 1 if parser.parse_args().smoke else 50
    options = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[options])
    set_seed(0)
    generator = nn.Sequential(nn.Linear(LATENT_DIM, 256), nn.ReLU(), nn.Linear(256, 64), nn.Tanh())
    critic = nn.Sequential(nn.Linear(64, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))
    critic_optimizer, generator_optimizer = (
        wgan_fast.optim.Adam(network.parameters(), lr=5e-4, betas=(0.5, 0.9)) for network in (critic, generator)
    )
    digits = TensorDataset(torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1)
    loader = DataLoader(digits, batch_size=32, shuffle=True, drop_last=True)
    generator, critic, critic_optimizer, generator_optimizer, loader = accelerator.prepare(
        generator, critic, critic_optimizer, generator_optimizer, loader
    )
    set_seed(accelerator.process_index)  # each process draws noise of its own
    for epoch in range(1, epochs + 1):
        for i, (real,) in enumerate(loader):
            latent = torch.randn(len(real), LATENT_DIM, device=accelerator.device)
            with torch.no_grad():
                fake = generator(latent)
            scores = critic(torch.cat([real, fake]))  # one forward pass of the wrapped critic
            estimate = scores[: len(real)].mean() - scores[len(real) :].mean()
            penalty = wgan_fast.gradient_penalty(critic, real, fake, weight=10.0)
            critic_optimizer.zero_grad()
            accelerator.backward(penalty - estimate)
            critic_optimizer.step()
            if (i + 1) % N_CRITIC == 0:
                generator_optimizer.zero_grad()
                accelerator.backward(-critic(generator(latent)).mean())
                generator_optimizer.step()
        mean = accelerator.reduce(estimate.detach(), reduction="mean").item()
        accelerator.print(
            f"epoch {epoch:3d}   Wasserstein estimate {mean:6.3f}   {accelerator.num_processes} processes"
        )
    accelerator.end_training()


if __name__ == "__main__":
    main()
