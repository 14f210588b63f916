"""Spectral norm of all layers at once, against torch's own, one per layer, and against singular values."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
from no_reads import NothingIsRead
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized

from wgan_fast import gradient_penalty
from wgan_fast.nn import fold, spectral_norm
from wgan_fast.nn.matrices import matrix_layers

EXAMPLE = torch.zeros(1, 3, 9, 8, dtype=torch.float64)


def _perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 7), nn.LeakyReLU(0.2), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 1)
    ).double()


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 4, (4, 3), stride=2, padding=(1, 2), dilation=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding="same", groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1, bias=False),
        nn.Flatten(),
        nn.LazyLinear(1),
    ).double()


def _critic(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    if kind == "perceptron":
        return _perceptron(), torch.randn(6, 5).double()
    critic = _convolutions()
    x = torch.randn(4, *EXAMPLE.shape[1:]).double()
    critic(x)
    return critic, x


def _torch_spectral_norm(critic: nn.Module, **options: Any) -> nn.Module:
    for _, layer in list(matrix_layers(critic)):
        parametrizations.spectral_norm(layer, **options)
    return critic


@pytest.mark.parametrize("kind", ["perceptron", "convolutions"])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_torchs_after_the_same_iterations(kind: str, iterations: int, dtype: torch.dtype) -> None:
    """Scores, buffers and gradients over several training passes; torch's state is loaded as it is."""
    critic, x = _critic(kind)
    theirs = _torch_spectral_norm(copy.deepcopy(critic), n_power_iterations=iterations)
    ours = spectral_norm(critic, n_power_iterations=iterations)
    ours.load_state_dict(theirs.state_dict())
    exact = copy.deepcopy(theirs)
    x32, ours, theirs = x.to(dtype), ours.to(dtype), theirs.to(dtype)
    tolerance = 1e-12
    for _ in range(3):
        results = []
        for network, points in ((exact, x), (theirs, x32), (ours, x32)):
            network.zero_grad()
            scores = network(points)
            (scores**2).sum().backward()
            gradients = [p.grad.double() for p in network.parameters() if p.grad is not None]
            results.append([scores.detach().double(), *(b.double() for b in network.buffers()), *gradients])
        for truth, reference, mine in zip(*results, strict=True):
            scale = truth.abs().max()
            error = tolerance
            if dtype == torch.float32:  # what the arithmetic in fp32 costs torch itself
                error = 8 * float((reference - truth).abs().max() / scale) + 1e-6
            assert (mine - reference).abs().max() <= error * scale


def test_state_moves_to_torch_and_back() -> None:
    critic, x = _critic("convolutions")
    theirs = _torch_spectral_norm(copy.deepcopy(critic))
    ours = spectral_norm(critic)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), rtol=1e-12)


@pytest.mark.parametrize("kind", ["perceptron", "convolutions"])
def test_matrix_form_reaches_singular_value_one(kind: str) -> None:
    critic, x = _critic(kind)
    spectral_norm(critic, n_power_iterations=300)(x)
    for _, layer in matrix_layers(critic):
        rows = layer.weight.transpose(0, int(isinstance(layer, nn.ConvTranspose2d))).flatten(1)
        assert torch.linalg.matrix_norm(rows, 2).item() == pytest.approx(1, abs=1e-9)


def test_operator_form_reaches_norm_one() -> None:
    """The whole Jacobian of each convolution at its own input size: stride, dilation, groups, transposed."""
    critic, x = _critic("convolutions")
    spectral_norm(critic, convolution="operator", example=EXAMPLE, n_power_iterations=2000)(x)
    points: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, args: Any) -> None:
        points[layer] = torch.zeros_like(args[0][:1])

    for _, layer in matrix_layers(critic):
        layer.register_forward_pre_hook(note)
    critic.eval()(x)
    for layer, point in list(points.items()):
        jacobian = torch.autograd.functional.jacobian(layer, point).reshape(-1, point.numel())  # type: ignore[no-untyped-call]
        assert torch.linalg.matrix_norm(jacobian, 2).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("convolution", ["matrix", "operator"])
def test_gradients_to_second_order(convolution: Any) -> None:
    """In evaluation mode, where the function is smooth: u and v are constants."""
    critic, _ = _critic("convolutions")
    spectral_norm(critic, convolution=convolution, example=EXAMPLE).eval()
    layers = [layer for name, layer in matrix_layers(critic) if name in ("0", "6", "8")]
    for layer in layers:
        chain = layer.parametrizations.weight
        weight = chain.original.detach().requires_grad_()
        assert torch.autograd.gradcheck(chain[0], (weight,))
        assert torch.autograd.gradgradcheck(chain[0], (weight,))


def test_layers_of_one_shape_in_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grouping that CUDA has, on the CPU: same numbers, one product for equal layers."""

    def grouped(parts: Any, weights: Any) -> list[list[int]]:
        groups: dict[Any, list[int]] = {}
        for i, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            groups.setdefault((weight.shape, part.linear_map), []).append(i)
        return list(groups.values())

    rules = importlib.import_module("wgan_fast.nn.spectral_norm")
    for kind, count in (("perceptron", 3), ("towers", 2)):
        if kind == "perceptron":
            critic, x = _critic(kind)
            options: dict[str, Any] = {}
        else:
            torch.manual_seed(0)
            critic = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)), nn.Conv2d(3, 1, 3, groups=1))
            critic, x = critic.double(), torch.randn(2, *EXAMPLE.shape[1:]).double()
            options = {"convolution": "operator", "example": EXAMPLE}
        ours = spectral_norm(critic, **options)
        twin = copy.deepcopy(ours)
        (ours(x) ** 2).sum().backward()
        with monkeypatch.context() as patch:
            patch.setattr(rules, "_groups", grouped)
            layers = [layer for _, layer in matrix_layers(twin)]
            parts = [layer.parametrizations.weight[0] for layer in layers]
            assert len(grouped(parts, [layer.weight for layer in layers])) == count
            (twin(x) ** 2).sum().backward()
        for a, b in zip(ours.parameters(), twin.parameters(), strict=True):
            assert a.grad is not None
            assert b.grad is not None
            assert torch.allclose(a.grad, b.grad, rtol=1e-10, atol=1e-12)
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(ours.buffers(), twin.buffers(), strict=True))


def test_iterates_in_training_mode_alone_and_once_a_pass() -> None:
    critic, x = _critic("perceptron")
    spectral_norm(critic)
    buffers = [b.clone() for b in critic.buffers()]
    critic.eval()(x)
    assert isinstance(critic, nn.Sequential)
    critic[0](x)
    critic.train()
    critic[0](x)
    assert all(torch.equal(a, b) for a, b in zip(buffers, critic.buffers(), strict=True))
    places = [b.data_ptr() for b in critic.buffers()]
    critic(x)
    assert not all(torch.equal(a, b) for a, b in zip(buffers, critic.buffers(), strict=True))
    assert places == [b.data_ptr() for b in critic.buffers()]
    buffers = [b.clone() for b in critic.buffers()]
    first = critic[0]
    assert torch.equal(first(x), nn.functional.linear(x, first.weight, first.bias))
    assert all(torch.equal(a, b) for a, b in zip(buffers, critic.buffers(), strict=True))


def test_an_error_inside_the_critic_leaves_no_weight_behind() -> None:
    critic, x = _critic("perceptron")
    spectral_norm(critic)
    with pytest.raises(RuntimeError):
        critic(x[:, :2])
    for _, layer in matrix_layers(critic):
        assert layer.parametrizations.weight[0].ready == []
    copy.deepcopy(critic)(x)


def test_a_copy_lives_by_itself() -> None:
    critic, x = _critic("perceptron")
    spectral_norm(critic)
    twin = copy.deepcopy(critic)
    before = [b.clone() for b in critic.buffers()]
    twin(x).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, critic.buffers(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, twin.buffers(), strict=True))
    assert all(p.grad is None for p in critic.parameters())


@pytest.mark.parametrize("shortcut", [True, False])
def test_penalised_with_the_exact_short_cut(shortcut: bool) -> None:
    critic, x = _critic("convolutions")
    theirs = _torch_spectral_norm(copy.deepcopy(critic))
    ours = spectral_norm(critic)
    ours.load_state_dict(theirs.state_dict())
    fake = torch.randn_like(x)
    alpha = torch.rand(len(x)).double()
    penalty = gradient_penalty(ours, x, fake, alpha=alpha, exact_shortcut=shortcut)
    expected = gradient_penalty(theirs, x, fake, alpha=alpha, exact_shortcut=False)
    assert torch.allclose(penalty, expected, rtol=1e-10)
    mine, wanted = (
        torch.autograd.grad(value, list(network.parameters()), allow_unused=True, materialize_grads=True)
        for value, network in ((penalty, ours), (expected, theirs))
    )
    for a, b in zip(mine, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("convolution", ["matrix", "operator"])
def test_folds_into_plain_layers(convolution: Any) -> None:
    critic, x = _critic("convolutions")
    spectral_norm(critic, convolution=convolution, example=EXAMPLE)
    critic(x)
    folded = fold(critic)
    assert not any(is_parametrized(module) for module in folded.modules())
    assert not folded._forward_pre_hooks
    assert not folded._forward_hooks
    assert torch.equal(folded(x), critic.eval()(x))
    assert is_parametrized(next(layer for _, layer in matrix_layers(critic)), "weight")


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="found none"):
        spectral_norm(nn.ReLU())
    with pytest.raises(ValueError, match="0: its weight is parametrized already"):
        spectral_norm(spectral_norm(_perceptron()))
    with pytest.raises(ValueError, match="convolution='true'"):
        spectral_norm(_perceptron(), convolution="true")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_power_iterations: expected at least 1, got 0"):
        spectral_norm(_perceptron(), n_power_iterations=0)
    with pytest.raises(ValueError, match="example: expected a tensor"):
        spectral_norm(_perceptron(), convolution="operator")
    circular = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1, padding_mode="circular"))
    with pytest.raises(ValueError, match="0: padding_mode='circular': expected 'zeros'"):
        spectral_norm(circular, convolution="operator", example=EXAMPLE.float())
    assert not is_parametrized(circular[0])


@pytest.mark.parametrize("convolution", ["matrix", "operator"])
def test_nothing_is_read_from_the_device(convolution: Any) -> None:
    critic, x = _critic("convolutions")
    spectral_norm(critic, convolution=convolution, example=EXAMPLE)
    with NothingIsRead():
        torch.autograd.grad(critic(x).sum(), list(critic.parameters()))
        with pytest.raises(AssertionError):
            x.sum().item()


def test_iterates_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    critic = spectral_norm(_perceptron().float())
    twin = copy.deepcopy(critic)
    x = torch.randn(4, 5)
    twin(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(x).dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(critic.buffers(), twin.buffers(), strict=True))
