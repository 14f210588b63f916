"""A whole critic step under every constraint: wgan_fast's beside the same in plain PyTorch.

The generated samples are given, so that a step is the critic's alone: scores of real and generated samples, the
constraint, gradients, optimizer. Ours are `critic_step` and `wgan_fast.optim`; plain PyTorch is what a textbook loop
does: two forward passes, the penalty through autograd, torch.optim, torch's own spectral norm and orthogonal
parametrization. Gradients of both are compared first, but for `lipschitz`, whose parameters differ, and `spectral`,
which iterates once in our one forward pass and twice in the textbook's two. The cost of a constraint is
the ratio of two constraints' medians of one provider.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from benchmarks.bench_orthogonal import penalty as orthogonal_penalty
from benchmarks.common import DEVICE, STEP_TOLERANCE, Case, Provider, main
from benchmarks.critics import DCGAN_32, Critics, dcgan, mlp
from benchmarks.schema import OURS
from wgan_fast.constraints import (
    Constraint,
    GradientPenalty,
    LipschitzNetwork,
    OrthogonalRegularization,
    SpectralNorm,
    WeightClipping,
)
from wgan_fast.nn import MaxMin
from wgan_fast.nn.matrices import matrix_layers
from wgan_fast.optim import Adam, RMSprop
from wgan_fast.training.step.feedforward import written_out
from wgan_fast.training.step.steps import critic_step

CLIP = 0.01
PLAIN = "plain PyTorch"
CONSTRAINTS: dict[str, Constraint] = {
    "none": Constraint(),
    "clip": WeightClipping(CLIP),
    "gp": GradientPenalty(10.0),
    "lp": GradientPenalty(10.0, one_sided=True),
    "r1": GradientPenalty.r1(),
    "dragan": GradientPenalty.dragan(),
    "spectral": SpectralNorm(),
    "spectral, true convolutions": SpectralNorm("operator"),
    "orthogonal": OrthogonalRegularization(1e-4),
    "lipschitz": LipschitzNetwork(),
}
WORKLOADS: Critics = {
    "3x512 MLP, B=256": (mlp, (256, 2)),
    "DCGAN-32, B=64": (partial(dcgan, DCGAN_32), (64, 3, 32, 32)),
}


def cases() -> Iterator[Case]:
    for workload, (make, shape) in WORKLOADS.items():
        torch.manual_seed(0)
        critic = make().to(DEVICE)
        real, fake = torch.randn(2, *shape, device=DEVICE).unbind()
        for name, constraint in CONSTRAINTS.items():
            torch.manual_seed(0)
            ours = constraint.prepare(copy.deepcopy(critic), real[:1])
            torch.manual_seed(0)
            providers = {OURS: _ours(ours, constraint, real, fake)}
            plain = _plain_critic(name, critic)
            if plain is not None:
                comparable = name not in ("lipschitz", "spectral")
                if name == "spectral":
                    plain.load_state_dict(ours.state_dict())
                providers[PLAIN] = _plain(plain, name, real, fake, comparable)
            yield Case(f"critic step, {name}", workload, 0, providers, tolerance=STEP_TOLERANCE, device=DEVICE)


def _ours(critic: nn.Module, constraint: Constraint, real: Tensor, fake: Tensor) -> Provider:
    optimizer: torch.optim.Optimizer = Adam(critic.parameters(), lr=1e-4)
    if constraint.clip_value is not None:
        optimizer = RMSprop(critic.parameters(), lr=1e-4, clip_value=constraint.clip_value)

    layers = written_out(critic, constraint)

    def step() -> object:
        return critic_step(critic, nn.Identity(), optimizer, constraint, real, fake, layers=layers)

    return Provider(step, partial(_gradients, critic, step))


def _plain(critic: nn.Module, name: str, real: Tensor, fake: Tensor, comparable: bool) -> Provider:
    clip = name == "clip"
    optimizer: torch.optim.Optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4)
    if clip:
        optimizer = torch.optim.RMSprop(critic.parameters(), lr=1e-4)

    def step() -> object:
        loss = critic(fake).mean() - critic(real).mean() + _plain_penalty(name, critic, real, fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if clip:
            for parameter in critic.parameters():
                parameter.data.clamp_(-CLIP, CLIP)
        return loss

    return Provider(step, partial(_gradients, critic, step) if comparable else None)


def _gradients(critic: nn.Module, step: Callable[[], object]) -> Sequence[Tensor]:
    """Of one step from the weights as they are, which are put back."""
    state = copy.deepcopy(critic.state_dict())
    torch.manual_seed(1)
    step()
    gradients = [p.grad.clone() for p in critic.parameters() if p.grad is not None]
    critic.load_state_dict(state)
    return gradients


def _plain_critic(name: str, critic: nn.Module) -> nn.Module | None:
    """None where PyTorch has nothing of the kind."""
    critic = copy.deepcopy(critic)
    layers = [layer for _, layer in matrix_layers(critic)]
    if name == "spectral":
        for layer in layers:
            parametrizations.spectral_norm(layer)
    elif name == "spectral, true convolutions":
        return None
    elif name == "lipschitz":
        if not all(isinstance(layer, nn.Linear) for layer in layers):
            return None
        for layer in layers:
            parametrizations.orthogonal(layer, orthogonal_map="cayley")
        assert isinstance(critic, nn.Sequential)
        return nn.Sequential(*[MaxMin() if isinstance(module, nn.ReLU) else module for module in critic])
    return critic


def _plain_penalty(name: str, critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor | float:
    if name == "orthogonal":
        return orthogonal_penalty([layer.weight for _, layer in matrix_layers(critic)])
    if name not in ("gp", "lp", "r1", "dragan"):
        return 0.0
    points = real
    noise = torch.rand_like(real) if name == "dragan" else None
    alpha = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    if noise is not None:
        points = real + alpha * 0.5 * real.std() * noise
    elif name != "r1":
        points = torch.lerp(fake, real, alpha)
    points = points.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    norms = gradients.flatten(1).norm(2, dim=1)
    excess = norms if name == "r1" else norms - 1
    if name == "lp":
        excess = excess.clamp_min(0)
    penalty: Tensor = (5.0 if name == "r1" else 10.0) * (excess**2).mean()
    return penalty


if __name__ == "__main__":
    main("constraints", cases)
