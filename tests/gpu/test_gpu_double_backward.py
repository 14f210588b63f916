"""The exact shortcut on a GPU: the zoo of critics against eager, what cuDNN and attention cannot do, memory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from critics import ZOO, build
from test_double_backward import assert_same, in_eagers_order, penalty, value_and_gradients
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import wgan_fast
from wgan_fast.double_backward import exact_shortcut

Context = AbstractContextManager[Any]


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """Deterministic cuDNN kernels, and no TF32, which would hide a wrong sum behind its rounding."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def on(device: torch.device, name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor, tuple[Any, ...]]:
    critic, x, args = build(name, dtype)
    return critic.to(device), x.to(device), tuple(arg.to(device) for arg in args)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("direct", [False, True])
def test_zoo_equals_eager_in_float64(name: str, direct: bool, device: torch.device) -> None:
    critic, x, args = on(device, name, torch.float64)
    eager = value_and_gradients(critic, x, nullcontext(), *args)
    assert_same(value_and_gradients(critic, x, exact_shortcut(direct_convolution=direct), *args), eager, 1e-12)
    assert any(g is not None and bool(g.any()) for g in eager[1:])


@pytest.mark.parametrize("name", ["mlp", "mlp_inplace", "groupsort", "conditional", "shared_graph", "spectral_norm"])
def test_critics_without_convolutions_are_bit_identical(name: str, device: torch.device) -> None:
    critic, x, args = on(device, name, torch.float32)
    eager = value_and_gradients(critic, x, nullcontext(), *args)
    assert_same(value_and_gradients(critic, x, in_eagers_order(), *args), eager)


@pytest.mark.parametrize("name", ["dcgan", "resnet", "layernorm", "instancenorm", "sequence", "volume", "pooled"])
@pytest.mark.parametrize("direct", [False, True])
def test_convolutions_are_as_near_to_float64_as_eager(name: str, direct: bool, device: torch.device) -> None:
    critic, x, args = on(device, name, torch.float32)
    exact = value_and_gradients(copy.deepcopy(critic).double(), x.double(), nullcontext(), *args)

    def error(context: Context) -> float:
        pairs = zip(value_and_gradients(critic, x, context, *args), exact, strict=True)
        return max(
            float(((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).detach()) for a, b in pairs if b is not None
        )

    assert error(exact_shortcut(direct_convolution=direct)) <= max(4 * error(nullcontext()), 1e-6)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_critics_leave_cudnn(layer: type[nn.RNNBase], cuda: torch.device) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = layer(3, 5, batch_first=True)
            self.score = nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.score(self.recurrent(x)[0][:, -1])
            return scores

    torch.manual_seed(0)
    critic = Recurrent().double()
    real, fake = torch.randn(2, 4, 6, 3, dtype=torch.float64)
    alpha = torch.rand(4, dtype=torch.float64)

    def gradients(critic: nn.Module, *samples: Tensor) -> list[Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = wgan_fast.gradient_penalty(critic, *samples[:2], alpha=samples[2])
        got = torch.autograd.grad(value, list(critic.parameters()), allow_unused=True, materialize_grads=True)
        return [gradient.cpu() for gradient in got]

    expected = gradients(critic, real, fake, alpha)
    for actual, wanted in zip(
        gradients(critic.to(cuda), real.to(cuda), fake.to(cuda), alpha.to(cuda)), expected, strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_attention_is_avoided(dtype: torch.dtype, cuda: torch.device) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)
            self.score = nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
            attended = nn.functional.scaled_dot_product_attention(q, k, v)
            scores: Tensor = self.score(attended.transpose(1, 2).flatten(2).mean(1))
            return scores

    torch.manual_seed(0)
    critic = Attention().to(cuda, dtype)
    real, fake = torch.randn(2, 4, 32, 16, device=cuda, dtype=dtype)
    alpha = torch.rand(4, device=cuda)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha)
    ours.backward()
    with sdpa_kernel(SDPBackend.MATH):
        plain = wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha, exact_shortcut=False)
    assert torch.equal(ours.detach(), plain.detach())
    assert critic.qkv.weight.grad is not None
    assert critic.qkv.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet"])
def test_peak_memory_is_not_above_eagers_and_does_not_grow(name: str, cuda: torch.device) -> None:
    critic, x, args = on(cuda, name, torch.float32)
    x = x.repeat(16, *[1] * (x.dim() - 1))
    parameters = list(critic.parameters())

    def step(context: Context) -> None:
        value = penalty(critic, x.clone().requires_grad_(), context, *args)
        torch.autograd.grad(value, parameters, allow_unused=True)

    def peak(make: Any) -> int:
        step(make())  # cuDNN's and cuBLAS's workspaces stay
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(make())
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    eager = peak(nullcontext)
    assert 0 < peak(in_eagers_order) <= eager
    # The direct form asks cuDNN for other workspaces, which the counter sees: no bound but its own first step.
    first = peak(exact_shortcut)
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        step(exact_shortcut())
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before
    assert peak(exact_shortcut) <= first
