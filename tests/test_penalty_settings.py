"""gradient_penalty where its users run it: mixed precision, torch.compile, several processes, special layers."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from critics import build
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import wgan_fast
from wgan_fast.double_backward import fused_kernels, least_work


def parameter_gradients(critic: nn.Module, value: Tensor) -> list[Tensor]:
    parameters = list(critic.parameters())
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return [g.double() for g in gradients]


def relative_error(gradients: list[Tensor], exact: list[Tensor]) -> float:
    """‖gradients - exact‖ / ‖exact‖, over all parameters."""
    flat, flat_exact = (torch.cat([g.flatten() for g in gs]) for gs in (gradients, exact))
    return float((flat - flat_exact).norm() / flat_exact.norm())


# ---------------------------------------------------------------- mixed precision


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet", "layernorm", "sequence"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scaled", [False, True])
def test_autocast_is_as_near_to_float64_as_the_textbook_lines_are(name: str, dtype: torch.dtype, scaled: bool) -> None:
    critic, x, _ = build(name, torch.float32)
    real, fake, alpha = x, x.flip(0) + 0.5, torch.rand(len(x))
    exact_critic = copy.deepcopy(critic).double()
    exact = wgan_fast.gradient_penalty(exact_critic, real.double(), fake.double(), alpha=alpha.double())
    exact_gradients = parameter_gradients(exact_critic, exact)

    with torch.autocast("cpu", dtype=dtype):
        points = torch.lerp(fake, real, alpha.view(-1, *[1] * (x.dim() - 1))).requires_grad_()
        scores = critic(points)
        (g,) = torch.autograd.grad(scores.float().sum(), points, create_graph=True)
    textbook = (g.float().flatten(1).norm(dim=1) - 1).square().mean()
    textbook_error = relative_error(parameter_gradients(critic, textbook), exact_gradients)

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaled)
    with torch.autocast("cpu", dtype=dtype):
        ours = wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha, scaler=scaler)
    assert ours.dtype == torch.float32
    assert abs(float(ours - exact)) <= 2 * abs(float(textbook - exact)) + 8 * torch.finfo(dtype).eps * float(exact)
    gradients = [g / scaler.get_scale() for g in parameter_gradients(critic, scaler.scale(ours))]
    assert relative_error(gradients, exact_gradients) <= 2 * textbook_error + 1e-3


def test_a_scaler_keeps_float16_gradients_from_vanishing() -> None:
    """Slopes of 1e-8 are zeros in float16, and the penalty would be that of a flat critic."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    with torch.no_grad():
        critic[0].weight.mul_(1e-4)
        critic[2].weight.mul_(1e-4)
    real, fake, alpha = torch.randn(16, 6), torch.randn(16, 6), torch.rand(16)

    def norms(dtype: torch.dtype, scaler: Any) -> Tensor:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            options = {"alpha": alpha, "target": 0.0, "scaler": scaler}
            return wgan_fast.gradient_penalty(critic, real, fake, return_norms=True, **options)[1]

    exact = norms(torch.float32, None)
    assert not bool(norms(torch.float16, None).any())
    torch.testing.assert_close(norms(torch.float16, torch.amp.GradScaler("cpu")), exact, rtol=0.01, atol=0.0)


def test_a_disabled_scaler_changes_nothing() -> None:
    critic, x, _ = build("mlp", torch.float32)
    alpha = torch.rand(len(x))
    plain = wgan_fast.gradient_penalty(critic, x, x + 1, alpha=alpha)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert torch.equal(wgan_fast.gradient_penalty(critic, x, x + 1, alpha=alpha, scaler=scaler), plain)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_default_scale_does_not_overflow(batch: int) -> None:
    critic, _, _ = build("mlp", torch.float32)
    with torch.autocast("cpu", dtype=torch.float16):
        value = wgan_fast.gradient_penalty(
            critic, torch.randn(batch, 6), torch.randn(batch, 6), scaler=torch.amp.GradScaler("cpu")
        )
    assert bool(value.isfinite())


def test_training_with_a_scaler_follows_float32() -> None:
    """The scaler's whole recipe: scale, backward, step, update, with the penalty in the loss."""
    torch.manual_seed(0)
    initial = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    real, fake = torch.randn(32, 4), torch.randn(32, 4) + 1

    def train(dtype: torch.dtype | None) -> list[float]:
        critic, losses = copy.deepcopy(initial), []
        optimizer = torch.optim.SGD(critic.parameters(), lr=0.02)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=dtype is not None)
        for step in range(20):
            alpha = torch.rand(32, generator=torch.Generator().manual_seed(step))
            with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                difference = critic(fake).mean() - critic(real).mean()
                loss = difference + 10 * wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha, scaler=scaler)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(float(loss))
        return losses

    expected = train(None)
    assert expected[-1] < 0.5 * expected[0]
    for dtype in (torch.float16, torch.bfloat16):
        torch.testing.assert_close(torch.tensor(train(dtype)), torch.tensor(expected), rtol=0.05, atol=0.05)


# ---------------------------------------------------------------- torch.compile


@pytest.mark.slow
@pytest.mark.usefixtures("traced_gradients")
@pytest.mark.parametrize(("name", "backend"), [("mlp", "inductor"), ("dcgan", "aot_eager")])
def test_a_compiled_critic_step_equals_eager(name: str, backend: str) -> None:
    critic, real, _ = build(name, torch.float32)
    fake, alpha = real.flip(0) + 0.5, torch.rand(len(real))
    parameters = list(critic.parameters())

    def step(real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
        penalty = wgan_fast.gradient_penalty(critic, real, fake, weight=10.0, alpha=alpha)
        loss = critic(fake).mean() - critic(real).mean() + penalty
        return loss.detach(), *torch.autograd.grad(loss, parameters)

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for ours, eager in zip(compiled(real, fake, alpha), step(real, fake, alpha), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "dcgan"])
def test_a_compiled_loss_with_torch_func_equals_eager(name: str) -> None:
    critic, real, _ = build(name, torch.float32)
    fake, alpha = real.flip(0) + 0.5, torch.rand(len(real))
    parameters = list(critic.parameters())

    def loss(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        x = wgan_fast.interpolate(real, fake, alpha)
        gradients = torch.func.grad(lambda x: critic(x).sum())(x)
        penalty = wgan_fast.gradient_norm_penalty(gradients, weight=10.0)
        return critic(fake).mean() - critic(real).mean() + penalty

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(real, fake, alpha)
    penalty = wgan_fast.gradient_penalty(critic, real, fake, weight=10.0, alpha=alpha)
    eager = critic(fake).mean() - critic(real).mean() + penalty
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    gradients = (torch.autograd.grad(value, parameters) for value in (compiled, eager))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_compiled_critic_is_refused_and_the_way_out_named() -> None:
    critic, x, _ = build("mlp", torch.float32)
    for compiled in (torch.compile(critic), torch.compile(lambda x: critic(x))):
        with pytest.raises(RuntimeError, match=r"_orig_mod.*or compile the whole critic step"):
            wgan_fast.gradient_penalty(compiled, x, x + 1)
    in_place = copy.deepcopy(critic)
    in_place.compile()
    with pytest.raises(RuntimeError, match="no double backward"):
        wgan_fast.gradient_penalty(in_place, x, x + 1)
    assert bool(wgan_fast.gradient_penalty(torch.compile(critic)._orig_mod, x, x + 1).isfinite())


# ---------------------------------------------------------------- several processes


JOINED = ["mlp", "layernorm"]


def _rank_gradients(rank: int, folder: str) -> None:
    """One of two processes: its half of each batch, through DistributedDataParallel."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    least_work.SHORTCUT = 0  # as in the parent
    gradients = {}
    for name in JOINED:
        critic, real, fake, alpha = _batch(name)
        model = DistributedDataParallel(critic, broadcast_buffers=False)
        mine = slice(rank * 4, rank * 4 + 4)
        _loss(model, real[mine], fake[mine], alpha[mine]).backward()
        gradients[name] = [p.grad for p in critic.parameters()]
    torch.save(gradients, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _batch(name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    critic, x, _ = build(name)
    generator = torch.Generator().manual_seed(5)
    real, fake = (torch.randn(8, *x.shape[1:], generator=generator, dtype=x.dtype) for _ in range(2))
    return critic, real, fake, torch.rand(8, generator=generator, dtype=x.dtype)


def _loss(critic: Callable[..., Any], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    penalty = wgan_fast.gradient_penalty(critic, real, fake, weight=10.0, alpha=alpha)
    return critic(fake).mean() - critic(real).mean() + penalty


@pytest.mark.slow
def test_two_ranks_equal_the_joined_batch(tmp_path: Any) -> None:
    torch.multiprocessing.spawn(_rank_gradients, args=(str(tmp_path),), nprocs=2)
    for name in JOINED:
        critic, real, fake, alpha = _batch(name)
        _loss(critic, real, fake, alpha).backward()
        for rank in (0, 1):
            gradients = torch.load(tmp_path / f"{rank}.pt")[name]
            for ours, parameter in zip(gradients, critic.parameters(), strict=True):
                torch.testing.assert_close(ours, parameter.grad, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- layers without a double backward


class SelfAttention(nn.Module):
    """Attention by the function or by the module; either would take a fused kernel."""

    def __init__(self, module: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True) if module else None
        self.score = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is None:
            q = x.unsqueeze(1)
            return self.score(F.scaled_dot_product_attention(q, q, q)).mean((1, 2))
        return self.score(self.attention(x, x, x, need_weights=False)[0]).mean(1)


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
def test_fused_attention_is_avoided_and_said_once(
    module: bool, shortcut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_kernels, "_said", set())
    torch.manual_seed(0)
    critic = SelfAttention(module)
    real, fake = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    alpha = torch.rand(3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        values = [
            wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha, exact_shortcut=shortcut) for _ in range(2)
        ]
    assert ["attention" in str(w.message) for w in said] == [True]
    gradients = parameter_gradients(critic, values[0])

    exact_critic = copy.deepcopy(critic).double()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        exact = wgan_fast.gradient_penalty(exact_critic, real.double(), fake.double(), alpha=alpha.double())
    assert relative_error(gradients, parameter_gradients(exact_critic, exact)) < 1e-5


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("return_scores", [False, True])
def test_fused_attention_is_avoided_in_critics_left_to_autograd_as_too_small(
    module: bool, return_scores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(least_work, "SHORTCUT", 1 << 60)
    monkeypatch.setattr(least_work, "ONE_PASS", 1 << 60)
    critic, x = SelfAttention(module), torch.randn(3, 5, 8)
    penalty, *_ = wgan_fast.r1_penalty(critic, x, return_norms=True, return_scores=return_scores)
    gradients = parameter_gradients(critic, penalty)
    exact = wgan_fast.r1_penalty(critic.double(), x.double(), exact_shortcut=False)
    assert relative_error(gradients, parameter_gradients(critic, exact)) < 1e-5


def test_the_flag_of_fused_attention_is_as_before() -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    with contextlib.suppress(ZeroDivisionError), fused_kernels.plain_attention():
        assert not torch.backends.cuda.flash_sdp_enabled()
        raise ZeroDivisionError
    assert torch.backends.cuda.flash_sdp_enabled() == before


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_critics_against_finite_differences(layer: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = layer(3, 4, batch_first=True)
            self.score = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.score(F.relu(self.recurrent(x)[0][:, -1] - 0.05))

    critic = Recurrent().double()
    real, fake, alpha = torch.randn(2, 5, 3).double(), torch.randn(2, 5, 3).double(), torch.rand(2).double()
    weight = critic.recurrent.weight_hh_l0
    (gradient,) = torch.autograd.grad(wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha), weight)
    step = 1e-6
    for i, j in ((0, 0), (2, 3)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[i, j] += sign * step
            values.append(float(wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha)))
            with torch.no_grad():
                weight[i, j] -= sign * step
        assert abs((values[0] - values[1]) / (2 * step) - float(gradient[i, j])) < 1e-7


class Heads(nn.Module):
    """Scores of two scales in a dict, as a multi-scale critic has them."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Linear(12, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(x.flatten(1))
        return {"full": self.fine(hidden).squeeze(1), "half": self.coarse(hidden[:, ::2])}


@pytest.mark.parametrize("return_scores", [False, True])
def test_outputs_makes_one_number_per_sample_of_several_heads(return_scores: bool) -> None:
    critic, x = Heads().double(), torch.randn(5, 12, dtype=torch.float64)

    def weighted(scores: dict[str, Tensor]) -> Tensor:
        return scores["full"] + 0.1 * scores["half"].sum(1)

    result = wgan_fast.r1_penalty(critic, x, outputs=weighted, return_scores=return_scores)  # type: ignore[call-overload]
    points = x.clone().requires_grad_(True)
    total = weighted(critic(points))
    (gradient,) = torch.autograd.grad(total.sum(), points, create_graph=True)
    textbook = gradient.square().sum(1).mean()
    parameters = list(critic.parameters())
    ours, theirs = (result[0] + result[1].mean(), textbook + total.mean()) if return_scores else (result, textbook)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, parameters, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(theirs, parameters, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
