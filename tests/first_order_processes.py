"""What test_first_order.py starts: ``python first_order_processes.py RENDEZVOUS RANK OUT``, two gloo processes."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import wgan_fast


def critic() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))
    return nn.Sequential(*layers).double()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    real, fake = torch.randn(2, 16, 8, dtype=torch.float64, generator=random)
    return real, fake, torch.rand(16, dtype=torch.float64, generator=random)


def loss(model: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor, method: wgan_fast.penalties.Method) -> Tensor:
    penalty = wgan_fast.gradient_penalty(model, real, fake, weight=10.0, alpha=alpha, method=method)
    total: Tensor = model(fake).mean() - model(real).mean() + penalty
    return total


def main(rendezvous: str, rank: int, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = critic()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    here = slice(8 * rank, 8 * rank + 8)
    real, fake, alpha = (tensor[here] for tensor in batch())
    refused = ""
    try:
        loss(model, real, fake, alpha, "exact")
    except RuntimeError as error:
        refused = str(error)
    loss(model, real, fake, alpha, "difference").backward()
    gradients = [parameter.grad.full_tensor() for parameter in model.parameters()]
    if rank == 0:
        torch.save({"gradients": gradients, "refused": refused}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
