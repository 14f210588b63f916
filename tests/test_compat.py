"""The names that people already call, each against the lines that it stands in for, at the same alpha."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from critics import dcgan, mlp
from torch import Tensor, nn

from wgan_fast import compat

REAL, FAKE = torch.randn(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def critic() -> nn.Module:
    torch.manual_seed(0)
    return dcgan().double()


def input_gradients(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_(True)
    scores = model(x)
    return torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True, retain_graph=True)[0]


def caogang(model: Any, real: Tensor, fake: Tensor, alpha: Tensor, weight: float) -> Tensor:
    alpha = alpha.view(-1, 1).expand(len(real), real.nelement() // len(real)).contiguous().view(real.shape)
    gradients = input_gradients(model, alpha * real + ((1 - alpha) * fake)).view(len(real), -1)
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean() * weight


def pytorch_gan(model: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    alpha = alpha.view(-1, 1, 1, 1)
    gradients = input_gradients(model, alpha * real + ((1 - alpha) * fake)).view(len(real), -1)
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean()


def tutorial(model: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    batch, channels, height, width = real.shape
    alpha = alpha.view(batch, 1, 1, 1).repeat(1, channels, height, width)
    gradient = input_gradients(model, real * alpha + fake * (1 - alpha))
    gradient_norm = gradient.view(gradient.shape[0], -1).norm(2, dim=1)
    return torch.mean((gradient_norm - 1) ** 2)


def cyclegan(
    model: Any, real: Tensor, fake: Tensor, alpha: Tensor, type: str, constant: float, weight: float
) -> tuple[Tensor, Tensor]:
    if type == "mixed":
        alpha = alpha.view(-1, 1).expand(len(real), real.nelement() // len(real)).contiguous().view(real.shape)
        points = alpha * real + ((1 - alpha) * fake)
    else:
        points = real if type == "real" else fake
    gradients = input_gradients(model, points).view(len(real), -1)
    return (((gradients + 1e-16).norm(2, dim=1) - constant) ** 2).mean() * weight, gradients


def ctgan(model: Any, real: Tensor, fake: Tensor, alpha: Tensor, pac: int, weight: float) -> Tensor:
    alpha = alpha.view(-1, 1, 1).repeat(1, pac, real.size(1)).view(-1, real.size(1))
    gradients = input_gradients(model, alpha * real + ((1 - alpha) * fake))
    return ((gradients.view(-1, pac * real.size(1)).norm(2, dim=1) - 1) ** 2).mean() * weight


def assert_equal_penalties(model: nn.Module, ours: Tensor, textbook: Tensor) -> None:
    """The values, and what they do to every parameter."""
    torch.testing.assert_close(ours, textbook, rtol=1e-12, atol=0.0)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(ours, parameters, materialize_grads=True, allow_unused=True),
        torch.autograd.grad(textbook, parameters, materialize_grads=True, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def drawn(seed: int, shape: tuple[int, ...]) -> Tensor:
    """What a script that draws alpha by torch.rand under this seed would have."""
    torch.manual_seed(seed)
    alpha = torch.rand(shape, dtype=torch.float64)
    torch.manual_seed(seed)
    return alpha


def test_calc_gradient_penalty_is_caogangs() -> None:
    model, alpha = critic(), drawn(7, (6, 1))
    assert_equal_penalties(
        model, compat.calc_gradient_penalty(model, REAL, FAKE), caogang(model, REAL, FAKE, alpha, 10.0)
    )
    ours = compat.calc_gradient_penalty(model, REAL, FAKE, LAMBDA=0.1, alpha=alpha)
    assert_equal_penalties(model, ours, caogang(model, REAL, FAKE, alpha, 0.1))


def test_compute_gradient_penalty_is_pytorch_gans() -> None:
    model, alpha = critic(), torch.rand(6, 1, 1, 1, dtype=torch.float64)
    ours = compat.compute_gradient_penalty(model, REAL, FAKE, alpha=alpha)
    assert_equal_penalties(model, ours, pytorch_gan(model, REAL, FAKE, alpha))


def test_gradient_penalty_is_the_tutorials() -> None:
    model, alpha = critic(), drawn(8, (6, 1, 1, 1))
    ours = compat.gradient_penalty(model, REAL, FAKE, device="cpu")
    assert_equal_penalties(model, ours, tutorial(model, REAL, FAKE, alpha))


@pytest.mark.parametrize("type", ["mixed", "real", "fake"])
@pytest.mark.parametrize(("constant", "weight"), [(1.0, 10.0), (0.5, 2.0)])
def test_cal_gradient_penalty_is_cyclegans(type: str, constant: float, weight: float) -> None:
    model, alpha = critic(), drawn(9, (6, 1))
    ours, gradients = compat.cal_gradient_penalty(model, REAL, FAKE, "cpu", type, constant, weight)
    textbook, textbook_gradients = cyclegan(model, REAL, FAKE, alpha, type, constant, weight)
    assert_equal_penalties(model, ours, textbook)
    assert gradients is not None
    torch.testing.assert_close(gradients, textbook_gradients, rtol=1e-12, atol=0.0)


def test_cal_gradient_penalty_without_weight_is_zero_and_none() -> None:
    assert compat.cal_gradient_penalty(critic(), REAL, FAKE, "cpu", lambda_gp=0.0) == (0.0, None)
    with pytest.raises(ValueError, match="type='other'"):
        compat.cal_gradient_penalty(critic(), REAL, FAKE, "cpu", type="other")


def test_packed_gradient_penalty_is_ctgans_method() -> None:
    class Discriminator(nn.Module):
        calc_gradient_penalty = compat.packed_gradient_penalty

        def __init__(self, pac: int) -> None:
            super().__init__()
            self.pac = pac
            self.net = mlp(nn.LeakyReLU(0.2)).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.view(-1, self.pac * x.size(1)))

    torch.manual_seed(0)
    real, fake = torch.randn(2, 12, 2, dtype=torch.float64)
    model, alpha = Discriminator(pac=3), drawn(10, (4, 1, 1))
    ours = model.calc_gradient_penalty(real, fake, "cpu", 3)
    assert_equal_penalties(model, ours, ctgan(model, real, fake, alpha, 3, 10.0))
    ours = model.calc_gradient_penalty(real, fake, pac=3, lambda_=2.0, alpha=alpha)
    assert_equal_penalties(model, ours, ctgan(model, real, fake, alpha, 3, 2.0))
    with pytest.raises(ValueError, match=r"pac=5: expected a divisor of the number of rows, 12"):
        model.calc_gradient_penalty(real, fake, "cpu", 5)


def test_data_are_left_as_they_were() -> None:
    real, fake = REAL.clone(), FAKE.clone().requires_grad_()
    for function in (compat.calc_gradient_penalty, compat.compute_gradient_penalty, compat.gradient_penalty):
        function(critic(), real, fake).backward()
    compat.cal_gradient_penalty(critic(), real, fake, "cpu", "real")[0].backward()
    assert not real.requires_grad
    assert fake.grad is None
    assert torch.equal(real, REAL)


def scored(model: nn.Module) -> tuple[Tensor, Tensor]:
    x = REAL.clone().requires_grad_(True)
    return x, model(x)


def squared_norms(model: nn.Module) -> Tensor:
    x, scores = scored(model)
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().sum([1, 2, 3])


def test_r1_reg_halves_the_mean() -> None:
    model = critic()
    x, scores = scored(model)
    assert_equal_penalties(model, compat.r1_reg(scores, x), 0.5 * squared_norms(model).mean())


def test_d_r1_loss_is_stylegan2_pytorchs() -> None:
    model = critic()
    x, scores = scored(model)
    assert_equal_penalties(model, compat.d_r1_loss(scores, x), squared_norms(model).mean())


def test_zero_centered_gradient_penalty_is_r3gans() -> None:
    model = critic()
    x, scores = scored(model)
    ours = compat.zero_centered_gradient_penalty(x, scores)
    assert ours.shape == (6,)
    assert_equal_penalties(model, ours.mean(), squared_norms(model).mean())


def test_compute_grad_pen_is_amps() -> None:
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    states, successors = torch.randn(2, 6, 5, dtype=torch.float64)
    pairs = torch.cat([states, successors], dim=-1)
    textbook = 10 * input_gradients(model, pairs).norm(2, dim=1).pow(2).mean()
    assert_equal_penalties(model, compat.compute_grad_pen(model, states, successors), textbook)
