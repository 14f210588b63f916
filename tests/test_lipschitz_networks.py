"""Lipschitz by construction: singular values, the measured constant, conversion, folding, the exact shortcut."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from no_reads import NothingIsRead
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from wgan_fast import gradient_penalty
from wgan_fast.nn import GroupSort, LipschitzResidual, MaxMin, ScaledAvgPool2d, fold, orthonormal, to_lipschitz

CERTIFIED = 1 + 1e-3


def _perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 33), nn.LeakyReLU(0.2), nn.Linear(33, 7), nn.GELU(),
        nn.Linear(7, 1), nn.Flatten(0),
    )  # fmt: skip


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        LipschitzResidual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU()), share=0.3),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 12, 4, stride=2, padding=1, groups=2),
        nn.ELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 1),
    )


CRITICS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "perceptron": (_perceptron, (6,)),
    "convolutional": (_convolutional, (3, 16, 16)),
    "strided": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4), nn.Flatten(0)
        ),
        (3, 8, 8),
    ),
}


def _trained(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[int, ...]]:
    """A converted critic after steps that try to break the bound: they raise its slope at large learning rates."""
    torch.manual_seed(0)
    make, shape = CRITICS[kind]
    critic = to_lipschitz(make()).to(dtype)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    x = torch.randn(16, *shape, dtype=dtype)
    for _ in range(30):
        optimizer.zero_grad()
        loss = critic(x).flatten()[:8].mean() - critic(x).flatten()[8:].mean()
        loss.backward()
        optimizer.step()
    return critic, shape


@pytest.mark.parametrize("shape", [(5, 5), (9, 4), (4, 9), (1, 17), (17, 1), (1, 1), (40, 3)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_all_singular_values_are_one(shape: tuple[int, int], scale: float) -> None:
    layer = orthonormal(nn.Linear(shape[1], shape[0]).double())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape))
    values = torch.linalg.svdvals(layer.weight)
    assert torch.allclose(values, torch.ones_like(values), atol=1e-9)


def test_every_parameter_has_a_gradient_that_is_right() -> None:
    for shape in ((4, 4), (5, 3), (2, 5)):
        cayley = orthonormal(nn.Linear(shape[1], shape[0]).double()).parametrizations.weight[0]  # type: ignore[union-attr, index]
        raw = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(cayley, (raw,))
        assert torch.autograd.gradgradcheck(cayley, (raw,))


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 7, 6)),
        (lambda: nn.Conv2d(3, 40, 3), (3, 7, 6)),
        (lambda: nn.Conv2d(4, 6, 4, stride=2, padding=1, groups=2), (4, 8, 8)),
        (lambda: nn.Conv2d(3, 12, 2, stride=2), (3, 6, 6)),
        (lambda: nn.Conv2d(2, 3, (3, 5), stride=(2, 3), dilation=(2, 1), padding=3), (2, 9, 8)),
        (lambda: nn.Conv2d(2, 3, 3, stride=4), (2, 9, 9)),
        (lambda: nn.Conv1d(3, 4, 5, stride=2, padding="valid"), (3, 20)),
        (lambda: nn.Conv3d(1, 4, 2), (1, 4, 4, 3)),
        (lambda: nn.Conv2d(3, 5, 3, padding="same"), (3, 5, 5)),
    ],
)
def test_the_operator_of_a_convolution_never_exceeds_one(layer: Any, size: tuple[int, ...]) -> None:
    """The whole Jacobian, also for kernels whose taps all agree, which come nearest to the bound."""
    for constant in (False, True):
        convolution = orthonormal(layer().double())
        if constant:
            with torch.no_grad():
                raw = convolution.parametrizations.weight.original  # type: ignore[union-attr]
                raw.copy_(raw.flatten(2).mean(dim=2).reshape(*raw.shape[:2], *[1] * (raw.dim() - 2)).expand_as(raw))
        x = torch.zeros(1, *size, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(convolution, x).reshape(-1, x.numel())  # type: ignore[no-untyped-call]
        norm = torch.linalg.matrix_norm(jacobian, 2)
        assert 0.05 < norm <= 1 + 1e-9


def test_the_bound_of_a_convolution_is_reached() -> None:
    """By an average on a constant map, away from the border: the factor cannot be larger."""
    convolution = orthonormal(nn.Conv2d(1, 1, 3, bias=False, padding=1).double())
    with torch.no_grad():
        matrix = torch.full((9, 1), 1 / 3).double()
        v = -matrix[1:] / (1 + matrix[0])
        convolution.parametrizations.weight.original.copy_(torch.cat([matrix[:1], v]).reshape(1, 1, 3, 3))  # type: ignore[union-attr]
    assert torch.allclose(convolution.weight, torch.full_like(convolution.weight, 1 / 9))
    x = torch.ones(1, 1, 60, 60).double()
    assert convolution(x).norm() / x.norm() > 0.98


@pytest.mark.parametrize("kind", CRITICS)
def test_the_certified_constant_is_never_exceeded(kind: str) -> None:
    """Gradient norms at random points, then gradient ascent on them, and slopes between pairs of points."""
    critic, shape = _trained(kind)
    torch.manual_seed(1)
    points = torch.cat([s * torch.randn(200, *shape) for s in (0.01, 1.0, 100.0)])
    assert _slopes(critic, points).max() <= CERTIFIED
    adversarial = torch.randn(32, *shape).requires_grad_()
    optimizer = torch.optim.Adam([adversarial], lr=0.05)
    largest = 0.0
    for _ in range(40):
        norms = _slopes(critic, adversarial, create_graph=True)
        largest = max(largest, norms.max().item())
        optimizer.zero_grad()
        (-norms.sum()).backward(inputs=[adversarial])
        optimizer.step()
    assert 0.02 < largest <= CERTIFIED
    x, y = points[torch.randperm(len(points))], points
    distinct = (x - y).flatten(1).norm(dim=1) > 0
    slopes = (critic(x) - critic(y)).flatten()[distinct].abs() / (x - y).flatten(1).norm(dim=1)[distinct]
    assert slopes.max() <= CERTIFIED


def _slopes(critic: nn.Module, x: Tensor, create_graph: bool = False) -> Tensor:
    x = x if x.requires_grad else x.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(x).sum(), x, create_graph=create_graph)
    return gradients.flatten(1).norm(dim=1)


def test_a_perceptron_keeps_the_norm_of_its_gradient() -> None:
    """Square layers and MaxMin: the gradient has norm 1 everywhere, so the critic can reach the dual's optimum."""
    critic = to_lipschitz(
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    ).double()
    norms = _slopes(critic, torch.randn(50, 8).double())
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-9)


@pytest.mark.parametrize("kind", CRITICS)
def test_folds_into_plain_layers(kind: str) -> None:
    critic, shape = _trained(kind)
    folded = fold(critic)
    assert not any(is_parametrized(module) for module in folded.modules())
    assert {type(m) for m in folded.modules()} <= {
        nn.Sequential, nn.Linear, nn.Conv2d, nn.Flatten, nn.MaxPool2d, nn.Identity, MaxMin, ScaledAvgPool2d,
        LipschitzResidual,
    }  # fmt: skip
    x = torch.randn(3, *shape)
    assert torch.equal(folded(x), critic(x))
    again = copy.deepcopy(critic)
    again.load_state_dict(critic.state_dict())
    assert torch.equal(again(x), critic(x))
    assert list(folded.state_dict()) == list(CRITICS[kind][0]().state_dict()) or kind == "convolutional"


@pytest.mark.parametrize("kind", ["perceptron", "strided"])
def test_penalised_with_the_exact_short_cut(kind: str) -> None:
    critic, shape = _trained(kind, torch.float64)
    real, fake = torch.randn(2, 5, *shape, dtype=torch.float64)
    alpha = torch.rand(5, dtype=torch.float64)
    parameters = list(critic.parameters())
    results = []
    for shortcut in (True, False):
        penalty = gradient_penalty(critic, real, fake, alpha=alpha, target=0.5, exact_shortcut=shortcut)
        gradients = torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)
        results.append([penalty, *gradients])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_the_original_stays_as_it_is_and_modes_and_dtypes_carry_over() -> None:
    plain = _convolutional().double()
    before = copy.deepcopy(plain.state_dict())
    converted = to_lipschitz(plain)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), plain.state_dict().values(), strict=True))
    assert converted(torch.randn(2, 3, 16, 16).double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert converted.float()(torch.randn(2, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize("features", [1, 2, 5, 8])
def test_max_min_and_group_sort_are_permutations(features: int) -> None:
    for x in (torch.randn(4, features), torch.randn(4, features, 3, 2)):
        for activation in (MaxMin(), GroupSort(2), GroupSort(3)):
            y = activation(x)
            assert torch.equal(y.sort(dim=1).values, x.sort(dim=1).values)
        pairs = GroupSort(2)(x)[:, : features // 2 * 2]
        assert torch.equal(MaxMin()(x)[:, 0 : features // 2 * 2 : 2], pairs[:, 1::2])
        assert torch.equal(MaxMin()(x)[:, 1 : features // 2 * 2 : 2], pairs[:, ::2])


@pytest.mark.parametrize("options", [{}, {"kernel_size": 2}, {"kernel_size": (2, 3)}, {"kernel_size": 3, "stride": 2}])
def test_scaled_pooling_is_one_lipschitz(options: dict[str, Any]) -> None:
    pool = ScaledAvgPool2d(**options)
    x = torch.zeros(1, 1, 7, 9, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(pool, x).reshape(-1, 63)  # type: ignore[no-untyped-call]
    norm = torch.linalg.matrix_norm(jacobian, 2)
    assert norm <= 1 + 1e-12
    assert norm > (0.7 if "stride" in options else 1 - 1e-12)


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (lambda: nn.Sequential(nn.Identity(), nn.Sequential(nn.BatchNorm1d(2))), r"1\.0: BatchNorm1d has no certified"),
        (lambda: nn.Sequential(nn.MaxPool2d(3, 2)), "0: MaxPool2d has no certified"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout()), "1: Dropout has no certified"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 2)), "0: ConvTranspose2d has no certified"),
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "critic: padding_mode='reflect'"),
        (lambda: nn.Sequential(orthonormal(nn.Linear(2, 2))), "0: ParametrizedLinear has no certified"),
    ],
)  # fmt: skip
def test_what_cannot_be_certified_is_refused_by_name(critic: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_lipschitz(critic())


def test_mistakes_are_named() -> None:
    with pytest.raises(TypeError, match="expected a linear or convolution layer, got ConvTranspose2d"):
        orthonormal(nn.ConvTranspose2d(1, 1, 1))
    with pytest.raises(ValueError, match="parametrized already"):
        orthonormal(orthonormal(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="group_size: expected at least 1, got 0"):
        GroupSort(0)
    with pytest.raises(ValueError, match=r"share: expected a number between 0 and 1, got 1\.0"):
        LipschitzResidual(nn.Identity(), share=1.0)


def test_channels_last_kernels_start_alike() -> None:
    plain = nn.Conv2d(4, 6, 3).double()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.equal(orthonormal(last).weight, orthonormal(plain).weight)
    assert not plain.bias.any()


def test_modules_that_are_used_twice_stay_so() -> None:
    activation, layer = nn.ReLU(), nn.Linear(4, 4)
    converted = to_lipschitz(nn.Sequential(layer, activation, layer, activation, nn.Linear(4, 1)))
    assert isinstance(converted, nn.Sequential)
    assert len(converted) == 5
    assert converted[0] is converted[2]
    assert isinstance(converted[3], MaxMin)
    assert len(list(converted.parameters())) == 4


def test_nothing_is_read_from_the_device() -> None:
    critic = to_lipschitz(_convolutional())
    with NothingIsRead():
        torch.autograd.grad(critic(torch.randn(2, 3, 16, 16)).sum(), list(critic.parameters()))
