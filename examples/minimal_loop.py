"""WGAN-GP on handwritten digits, on one page: the library, plain PyTorch, and a CUDA graph where there is a GPU.

    python examples/minimal_loop.py            # 1500 iterations, digits.png at the end
    python examples/minimal_loop.py --smoke    # 20 iterations

Gulrajani et al. 2017 (Improved Training of Wasserstein GANs), algorithm 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import wgan_fast

LATENT_DIM, BATCH, N_CRITIC, LAMBDA_GP = 32, 64, 5, 10.0


def networks(device: torch.device) -> tuple[nn.Module, nn.Module]:
    generator = nn.Sequential(
        nn.Linear(LATENT_DIM, 384), nn.ReLU(), nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 64), nn.Tanh()
    )
    critic = nn.Sequential(
        nn.Linear(64, 384), nn.LeakyReLU(0.2), nn.Linear(384, 384), nn.LeakyReLU(0.2), nn.Linear(384, 1)
    )
    return generator.to(device), critic.to(device)


class Loop:
    """One iteration of algorithm 1: ``N_CRITIC`` critic steps and a generator step, on tensors that stay in place."""

    def __init__(self, data: Tensor) -> None:
        self.data, self.device = data, data.device
        self.generator, self.critic = networks(data.device)
        on_gpu = data.is_cuda  # step counts on the GPU, so that a graph can advance them
        self.generator_optimizer, self.critic_optimizer = (
            wgan_fast.optim.Adam(network.parameters(), lr=5e-4, betas=(0.5, 0.9), capturable=on_gpu)
            for network in (self.generator, self.critic)
        )
        self.wasserstein_estimate = torch.zeros((), device=data.device)

    def latent(self) -> Tensor:
        return torch.randn(BATCH, LATENT_DIM, device=self.device)

    def critic_step(self) -> None:
        real = self.data[torch.randint(len(self.data), (BATCH,), device=self.device)]
        with torch.no_grad():
            fake = self.generator(self.latent())
        estimate = self.critic(real).mean() - self.critic(fake).mean()
        penalty = wgan_fast.gradient_penalty(self.critic, real, fake, weight=LAMBDA_GP)
        self.step(penalty - estimate, self.critic, self.critic_optimizer)
        self.wasserstein_estimate.copy_(estimate.detach())

    def generator_step(self) -> None:
        loss = -self.critic(self.generator(self.latent())).mean()
        self.step(loss, self.generator, self.generator_optimizer)

    @staticmethod
    def step(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        parameters = list(network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()

    def iterate(self) -> None:
        for _ in range(N_CRITIC):
            self.critic_step()
        self.generator_step()


def captured(iterate: Callable[[], None]) -> Callable[[], None]:
    """``iterate`` as one CUDA graph: a replay launches all its kernels at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # these train, too; Triton compiles and cuDNN chooses its algorithms
            iterate()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        iterate()
    return graph.replay


def main() -> None:
    parser = argparse.ArgumentParser(description="WGAN-GP on handwritten digits")
    parser.add_argument("--smoke", action="store_true", help="20 iterations, no picture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    loop = Loop(torch.tensor(load_digits().data, dtype=torch.float32, device=options.device) / 8 - 1)
    iterate = captured(loop.iterate) if loop.device.type == "cuda" else loop.iterate
    iterations = 20 if options.smoke else 1500
    for i in range(1, iterations + 1):
        iterate()
        if i % max(iterations // 10, 1) == 0:
            print(f"iteration {i:5d}   Wasserstein estimate {loop.wasserstein_estimate.item():6.3f}")
    if not options.smoke:
        save(loop.generator(loop.latent()).detach().reshape(-1, 8, 8).cpu())


def save(samples: Tensor) -> None:
    import matplotlib.pyplot as plt

    plt.imsave("digits.png", samples.reshape(8, 8, 8, 8).transpose(1, 2).reshape(64, 64).numpy(), cmap="gray")
    print("digits.png: 64 samples")


if __name__ == "__main__":
    main()
