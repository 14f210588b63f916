"""Penalties from first-order passes against the exact one: equal values, gradients as near as promised."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from first_order_processes import batch, critic, loss
from torch import Tensor, nn

import wgan_fast


class Attention(nn.Module):
    """One block of pre-norm self-attention over four tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.project = nn.LayerNorm(16), nn.Linear(16, 48)
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 4, 16)
        q, k, v = self.project(self.norm(tokens)).chunk(3, dim=-1)
        attended = torch.softmax(q @ k.transpose(1, 2) / 4, dim=-1) @ v
        return self.head((tokens + attended).flatten(1))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(128, 1),
    )


def perceptron(activation: Callable[[], nn.Module], *norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), *norm, activation(), nn.Linear(128, 128), activation(), nn.Linear(128, 1))


SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "silu": lambda: perceptron(nn.SiLU),
    "gelu": lambda: perceptron(nn.GELU),
    "gelu of tanh": lambda: perceptron(lambda: nn.GELU("tanh")),
    "elu": lambda: perceptron(nn.ELU),
    "celu": lambda: perceptron(lambda: nn.CELU(0.5)),
    "softplus": lambda: perceptron(nn.Softplus),
    "tanh": lambda: perceptron(nn.Tanh),
    "sigmoid": lambda: perceptron(nn.Sigmoid),
    "mish": lambda: perceptron(nn.Mish),
    "layer norm": lambda: perceptron(nn.SiLU, nn.LayerNorm(128)),
    "dropout": lambda: perceptron(nn.SiLU, nn.Dropout(0.5)),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 16)), nn.InstanceNorm1d(4, affine=True), nn.Tanh(), nn.Flatten(), nn.Linear(64, 1)
    ),
    "convolutions": convolutions,
    "attention": Attention,
    "gates": lambda: nn.Sequential(nn.Linear(64, 128), nn.GLU(), nn.Softmin(1), nn.Linear(64, 1)),
}


def samples(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    real, fake = torch.randn(2, 32, 64, dtype=dtype)
    return real, fake, torch.rand(32, dtype=dtype)


def penalty_and_gradient(model: nn.Module, method: Any, points: tuple[Tensor, Tensor, Tensor], **options: Any) -> Any:
    torch.manual_seed(5)  # dropout's masks
    real, fake, alpha = points
    value = wgan_fast.gradient_penalty(model, real, fake, weight=10.0, alpha=alpha, method=method, **options)
    gradients = torch.autograd.grad(value.sum(), list(model.parameters()), allow_unused=True, materialize_grads=True)
    return value.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def relative(ours: Tensor, exact: Tensor) -> float:
    """0 where both are 0, as for the last bias."""
    return float((ours - exact).norm() / exact.norm().clamp_min(1e-30))


@pytest.mark.parametrize("name", SMOOTH)
def test_a_difference_gives_the_exact_value_and_nearly_the_exact_gradient(name: str) -> None:
    """The second derivatives of ELU and CELU jump at 0, which leaves an error of h instead of h²."""
    torch.manual_seed(0)
    jumps = name in ("elu", "celu")
    for dtype, bound in ((torch.float32, 1e-2 if jumps else 1e-3), (torch.float64, 2e-3 if jumps else 1e-7)):
        model, points = SMOOTH[name]().to(dtype), samples(dtype)
        value, exact = penalty_and_gradient(model, "exact", points)
        ours, gradient = penalty_and_gradient(model, "difference", points)
        torch.testing.assert_close(ours, value, rtol=1e-6, atol=0.0)
        assert relative(gradient, exact) < bound
        assert torch.cosine_similarity(gradient, exact, dim=0) > 1 - bound


@pytest.mark.parametrize("name", [*SMOOTH, "relu"])
def test_forward_mode_is_exact(name: str) -> None:
    torch.manual_seed(0)
    model = (SMOOTH | {"relu": lambda: perceptron(nn.ReLU)})[name]().double()
    points = samples(torch.float64)
    value, exact = penalty_and_gradient(model, "exact", points)
    ours, gradient = penalty_and_gradient(model, "forward", points)
    torch.testing.assert_close(ours, value)
    assert relative(gradient, exact) < 1e-12


@pytest.mark.parametrize("method", ["forward", "difference"])
@pytest.mark.parametrize(
    "options", [{"one_sided": True, "target": 0.1}, {"target": 0.0}, {"reduction": "sum"}, {"reduction": "none"}]
)
def test_every_form_of_the_penalty(method: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, points = SMOOTH["silu"]().double(), samples(torch.float64)
    value, exact = penalty_and_gradient(model, "exact", points, **options)
    ours, gradient = penalty_and_gradient(model, method, points, **options)
    torch.testing.assert_close(ours, value)
    assert relative(gradient, exact) < 1e-7


@pytest.mark.parametrize("method", ["forward", "difference"])
def test_a_sample_where_the_penalty_is_flat_counts_for_nothing(method: str) -> None:
    """A constant critic under R1: every slope is 0, and there is no direction to take a difference along."""
    model = SMOOTH["tanh"]().double()
    nn.init.zeros_(model[-1].weight)  # type: ignore[index,arg-type,union-attr]
    value, gradient = penalty_and_gradient(model, method, samples(torch.float64), target=0.0)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("method", ["forward", "difference"])
def test_without_recording_the_value_alone_is_computed(method: Any) -> None:
    model, (real, fake, alpha) = SMOOTH["silu"](), samples(torch.float32)
    exact = wgan_fast.gradient_penalty(model, real, fake, alpha=alpha)
    with torch.no_grad():
        value = wgan_fast.gradient_penalty(model, real, fake, alpha=alpha, method=method)
    assert not value.requires_grad
    torch.testing.assert_close(value, exact.detach())


def test_a_compiled_critic_has_a_difference() -> None:
    torch.manual_seed(0)
    model, points = SMOOTH["silu"]().double(), samples(torch.float64)
    compiled = torch.compile(model, backend="aot_eager")
    with pytest.raises(RuntimeError, match="method='difference'"):
        penalty_and_gradient(compiled, "exact", points)  # type: ignore[arg-type]
    _, exact = penalty_and_gradient(model, "exact", points)
    _, gradient = penalty_and_gradient(compiled, "difference", points)  # type: ignore[arg-type]
    assert relative(gradient, exact) < 1e-7


@pytest.mark.parametrize(
    "kinked",
    [nn.ReLU, nn.LeakyReLU, nn.SELU, lambda: nn.ELU(0.5), nn.Hardswish, lambda: nn.AdaptiveMaxPool1d(128)],
)
def test_a_difference_refuses_modules_with_kinks(kinked: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"method='difference': the critic uses .*method='forward' is exact"):
        penalty_and_gradient(perceptron(kinked), "difference", samples(torch.float32))


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        torch.abs,
        lambda x: x.clamp(min=0),
        lambda x: x.clamp_min(0),
        lambda x: x.minimum(-x),
        nn.functional.leaky_relu,
    ],
)
def test_a_difference_refuses_functions_with_kinks(function: Callable[[Tensor], Tensor]) -> None:
    linear = nn.Linear(64, 1)
    with pytest.raises(ValueError, match="method='difference': the critic uses"):
        wgan_fast.gradient_penalty(lambda x: linear(function(x)), *samples(torch.float32)[:2], method="difference")


def test_forward_mode_points_to_the_difference_where_it_is_missing() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sin()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    linear = nn.Linear(64, 1)
    with pytest.raises(RuntimeError, match=r"without forward-mode differentiation; method='difference'"):
        wgan_fast.gradient_penalty(lambda x: linear(Opaque.apply(x)), *samples(torch.float32)[:2], method="forward")


@pytest.mark.parametrize(
    "layer",
    [
        nn.TransformerEncoderLayer(64, 4, 64, batch_first=True, norm_first=True),
        nn.Sequential(nn.Unflatten(1, (4, 16)), nn.InstanceNorm1d(4, track_running_stats=True), nn.Flatten()),
    ],
)
def test_forward_mode_refuses_layers_whose_tangents_torch_cannot_differentiate(layer: nn.Module) -> None:
    model = nn.Sequential(layer, nn.Linear(64, 1))
    with pytest.raises(RuntimeError, match=r"without forward-mode differentiation; method='difference'"):
        wgan_fast.gradient_penalty(model, *samples(torch.float32)[:2], method="forward")


@pytest.mark.parametrize("method", ["forward", "difference"])
def test_batch_statistics_are_refused_and_those_of_evaluation_are_not(method: str) -> None:
    model = perceptron(nn.SiLU, nn.BatchNorm1d(128)).double()
    points = samples(torch.float64)
    with (
        pytest.warns(UserWarning, match="BatchNorm"),
        pytest.raises((RuntimeError, ValueError), match="couples the sam"),
    ):
        penalty_and_gradient(model, method, points)
    model.eval()
    _, exact = penalty_and_gradient(model, "exact", points)
    _, gradient = penalty_and_gradient(model, method, points)
    assert relative(gradient, exact) < 1e-7


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match="method='second': expected 'exact', 'forward' or 'difference'"):
        penalty_and_gradient(SMOOTH["silu"](), "second", samples(torch.float32))


def test_two_sharded_processes_equal_one(tmp_path: Path) -> None:
    pytest.importorskip("torch.distributed.fsdp", reason="needs fully_shard")
    program = Path(__file__).with_name("first_order_processes.py")
    arguments = [[str(tmp_path / "rendezvous"), str(rank), str(tmp_path / "out.pt")] for rank in (0, 1)]
    started = [subprocess.Popen([sys.executable, program, *each]) for each in arguments]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    result = torch.load(tmp_path / "out.pt")
    assert "FSDP2" in result["refused"]
    assert "method='difference'" in result["refused"]
    model = critic()
    exact = torch.autograd.grad(loss(model, *batch(), method="exact"), list(model.parameters()))
    for ours, theirs in zip(result["gradients"], exact, strict=True):
        assert relative(ours, theirs) < 1e-7


# --------------------------------------------------------------------------------------------- approximate_r1_penalty


def test_the_approximate_r1_is_its_formula() -> None:
    model, (x, _, _) = perceptron(nn.ReLU), samples(torch.float32)
    ours = wgan_fast.approximate_r1_penalty(model, x, 0.1, weight=2.0, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours, 2.0 * (model(x) - model(x + 0.1 * noise)).square().mean())


def test_the_approximate_r1_is_sigma_squared_times_r1_on_average() -> None:
    torch.manual_seed(0)
    model, x = SMOOTH["tanh"]().double(), torch.randn(4, 64, dtype=torch.float64)
    sigma, draws = 1e-3, 4000
    with torch.no_grad():
        average = wgan_fast.approximate_r1_penalty(model, x.repeat(draws, 1), sigma) / sigma**2
    torch.testing.assert_close(average, wgan_fast.r1_penalty(model, x).detach(), rtol=0.05, atol=0.0)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_the_approximate_r1_refuses_a_sigma_that_is_not_positive(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        wgan_fast.approximate_r1_penalty(SMOOTH["silu"](), torch.randn(2, 64), sigma)
