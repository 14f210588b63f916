"""The closed-form gradient against autograd's, for both forms and every shape of layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wgan_fast.nn import add_orthogonal_gradients_, spectral_norm


def _critic() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),  # wide
        nn.Conv2d(5, 5, 1, bias=False),  # square
        nn.ConvTranspose2d(5, 7, 2, groups=1),
        nn.Conv2d(6, 40, (1, 2), groups=2),  # tall
        nn.Linear(4, 9),
        nn.Linear(9, 4),
        nn.Linear(4, 1),
        nn.BatchNorm1d(3),
    ).double()


def _matrices(critic: nn.Module) -> list[Tensor]:
    return [
        layer.weight.transpose(0, int(isinstance(layer, nn.ConvTranspose2d))).flatten(1)
        for layer in critic.modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ]


def _textbook(matrix: Tensor, form: str) -> Tensor:
    rows, columns = matrix.shape
    if form == "off-diagonal":
        gram = matrix @ matrix.T
        return ((gram * (1 - torch.eye(rows).double())) ** 2).sum()
    gram = matrix.T @ matrix if columns < rows else matrix @ matrix.T
    return ((gram - torch.eye(len(gram)).double()) ** 2).sum()


@pytest.mark.parametrize("form", ["full", "off-diagonal"])
def test_equals_autograd(form: str) -> None:
    critic = _critic()
    parameters = list(critic.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    before = [p.grad.clone() for p in parameters if p.grad is not None]
    expected = 0.3 * torch.stack([_textbook(m, form) for m in _matrices(critic)]).sum()
    gradients = torch.autograd.grad(expected, parameters, allow_unused=True, materialize_grads=True)
    value = add_orthogonal_gradients_(critic, 0.3, form=form)  # type: ignore[arg-type]
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert not value.requires_grad
    for parameter, old, gradient in zip(parameters, before, gradients, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, old + gradient, rtol=1e-12, atol=1e-13)


def test_either_gram_matrix_has_the_same_gradient() -> None:
    """‖WᵀW - I‖² and ‖WWᵀ - I‖² differ by a constant: the choice of the smaller one is free."""
    weight = torch.randn(7, 3).double().requires_grad_()
    tall = ((weight.T @ weight - torch.eye(3)) ** 2).sum()
    wide = ((weight @ weight.T - torch.eye(7)) ** 2).sum()
    assert (wide - tall).item() == pytest.approx(4)
    (a,), (b,) = (torch.autograd.grad(value, weight, retain_graph=True) for value in (tall, wide))
    assert torch.allclose(a, b, rtol=1e-12)


def test_is_zero_exactly_at_orthonormal_weights_and_descends_to_them() -> None:
    critic = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4)).double()
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.02)
    values = []
    for _ in range(400):
        optimizer.zero_grad()
        values.append(add_orthogonal_gradients_(critic, 1.0).item())
        optimizer.step()
    assert values[0] > 1
    assert values[-1] < 1e-9
    for matrix in _matrices(critic):
        assert torch.allclose(torch.linalg.svdvals(matrix), torch.ones(len(matrix)).double(), atol=1e-5)


def test_off_diagonal_leaves_the_norms_free() -> None:
    layer = nn.Linear(5, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([2.0, 0.5, 3.0, 0, 0]))[:3])
    assert add_orthogonal_gradients_(layer, 1.0, form="off-diagonal") == 0
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_stays_near_float64(dtype: torch.dtype) -> None:
    exact = nn.Linear(33, 17).to(dtype).double()
    rounded = nn.Linear(33, 17).to(dtype)
    rounded.load_state_dict(exact.state_dict())
    add_orthogonal_gradients_(exact, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        add_orthogonal_gradients_(rounded, 0.1)
    assert exact.weight.grad is not None
    assert rounded.weight.grad is not None
    error = (rounded.weight.grad.double() - exact.weight.grad).abs().max()
    assert error <= 4 * torch.finfo(dtype).eps * exact.weight.grad.abs().max()


def test_frozen_and_channels_last_weights() -> None:
    critic = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).double()
    twin = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).double()
    twin.load_state_dict(critic.state_dict())
    twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    critic[0].weight.requires_grad_(False)
    twin[0].weight.requires_grad_(False)
    for network in (critic, twin):
        add_orthogonal_gradients_(network, 1.0)
        assert network[0].weight.grad is None
    assert torch.allclose(critic[1].weight.grad, twin[1].weight.grad, rtol=1e-12, atol=1e-13)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="form='diagonal': expected 'full' or 'off-diagonal'"):
        add_orthogonal_gradients_(nn.Linear(2, 2), form="diagonal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found none"):
        add_orthogonal_gradients_(nn.ReLU())
    with pytest.raises(ValueError, match="found none"):
        add_orthogonal_gradients_(spectral_norm(nn.Sequential(nn.Linear(2, 2))))
