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
from typing import NamedTuple

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


def penalised(
    points: Callable[[Tensor, Tensor], Tensor],
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    *,
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
) -> Tensor:
    x = points(real, fake).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    norms = gradients.flatten(1).norm(2, dim=1)
    excess = norms - target if target else norms
    penalty: Tensor = weight * ((excess.clamp_min(0) if one_sided else excess) ** 2).mean()
    return penalty


def alpha_for(real: Tensor) -> Tensor:
    return torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)


def mixed(real: Tensor, fake: Tensor) -> Tensor:
    return torch.lerp(fake, real, alpha_for(real))


def around_real(real: Tensor, fake: Tensor) -> Tensor:
    noise = torch.rand_like(real)
    return real + alpha_for(real) * 0.5 * real.std() * noise


def orthogonal(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return orthogonal_penalty([layer.weight for _, layer in matrix_layers(critic)])


def normalized(critic: nn.Module) -> nn.Module:
    for _, layer in list(matrix_layers(critic)):
        parametrizations.spectral_norm(layer)
    return critic


def orthonormal(critic: nn.Module) -> nn.Module | None:
    """None where there are convolutions."""
    layers = [layer for _, layer in matrix_layers(critic)]
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return None
    for layer in layers:
        parametrizations.orthogonal(layer, orthogonal_map="cayley")
    assert isinstance(critic, nn.Sequential)
    return nn.Sequential(*[MaxMin() if isinstance(module, nn.ReLU) else module for module in critic])


class Plain(NamedTuple):
    """A constraint in plain PyTorch; ``prepare`` gives None where PyTorch has nothing of the kind."""

    penalty: Callable[[nn.Module, Tensor, Tensor], Tensor | float] = lambda critic, real, fake: 0.0
    prepare: Callable[[nn.Module], nn.Module | None] = lambda critic: critic
    comparable: bool = True
    clip: bool = False


CONSTRAINTS: dict[str, tuple[Constraint, Plain]] = {
    "none": (Constraint(), Plain()),
    "clip": (WeightClipping(CLIP), Plain(clip=True)),
    "gp": (GradientPenalty(10.0), Plain(partial(penalised, mixed))),
    "lp": (GradientPenalty(10.0, one_sided=True), Plain(partial(penalised, mixed, one_sided=True))),
    "r1": (GradientPenalty.r1(), Plain(partial(penalised, lambda real, fake: real, weight=5.0, target=0.0))),
    "dragan": (GradientPenalty.dragan(), Plain(partial(penalised, around_real))),
    "spectral": (SpectralNorm(), Plain(prepare=normalized, comparable=False)),
    "spectral, true convolutions": (SpectralNorm("operator"), Plain(prepare=lambda critic: None)),
    "orthogonal": (OrthogonalRegularization(1e-4), Plain(orthogonal)),
    "lipschitz": (LipschitzNetwork(), Plain(prepare=orthonormal, comparable=False)),
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
        for name, (constraint, plain) in CONSTRAINTS.items():
            torch.manual_seed(0)
            ours = constraint.prepare(copy.deepcopy(critic), real[:1])
            torch.manual_seed(0)
            providers = {OURS: _ours(ours, constraint, real, fake)}
            theirs = plain.prepare(copy.deepcopy(critic))
            if theirs is not None:
                providers["plain PyTorch"] = _plain(plain, theirs, real, fake)
            yield Case(f"critic step, {name}", workload, 0, providers, tolerance=STEP_TOLERANCE, device=DEVICE)


def _ours(critic: nn.Module, constraint: Constraint, real: Tensor, fake: Tensor) -> Provider:
    optimizer: torch.optim.Optimizer = Adam(critic.parameters(), lr=1e-4)
    if constraint.clip_value is not None:
        optimizer = RMSprop(critic.parameters(), lr=1e-4, clip_value=constraint.clip_value)

    layers = written_out(critic, constraint)

    def step() -> object:
        return critic_step(critic, nn.Identity(), optimizer, constraint, real, fake, layers=layers)

    return Provider(step, partial(_gradients, critic, step))


def _plain(plain: Plain, critic: nn.Module, real: Tensor, fake: Tensor) -> Provider:
    optimizer = (torch.optim.RMSprop if plain.clip else torch.optim.Adam)(critic.parameters(), lr=1e-4)

    def step() -> object:
        loss = critic(fake).mean() - critic(real).mean() + plain.penalty(critic, real, fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if plain.clip:
            for parameter in critic.parameters():
                parameter.data.clamp_(-CLIP, CLIP)
        return loss

    return Provider(step, partial(_gradients, critic, step) if plain.comparable else None)


def _gradients(critic: nn.Module, step: Callable[[], object]) -> Sequence[Tensor]:
    """Of one step from the weights as they are, which are put back."""
    state = copy.deepcopy(critic.state_dict())
    torch.manual_seed(1)
    step()
    gradients = [p.grad.clone() for p in critic.parameters() if p.grad is not None]
    critic.load_state_dict(state)
    return gradients


if __name__ == "__main__":
    main("constraints", cases)
