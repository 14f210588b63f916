"""--precision and --channels-last: near fp32 by the error of the 16-bit type, resumable, refused with a reason."""

from __future__ import annotations

import copy
import dataclasses
import logging
import platform
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wgan_fast.constraints import Constraint, GradientPenalty, WeightClipping
from wgan_fast.optim import Adam, RMSprop
from wgan_fast.training import Config, Run, UserError
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.step.precision import float32_products
from wgan_fast.training.step.steps import Descent, critic_step, generator_step

SMALL: dict[str, Any] = {
    "data": "digits",
    "width": 32,
    "batch_size": 16,
    "n_critic": 2,
    "critic_burst": False,
    "iterations": 6,
}


class Plain(nn.Module):
    """The network with its weights and inputs rounded to bf16 once, and all arithmetic in fp64: the least error that
    bf16 products can have."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).bfloat16().double()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x.bfloat16().double())
        return scores


def _pair() -> tuple[nn.Module, nn.Module]:
    generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 20))
    critic = nn.Sequential(nn.Linear(20, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
    return generator, critic


def _critic_step(
    generator: nn.Module, critic: nn.Module, constraint: Constraint, dtype: torch.dtype | None
) -> tuple[list[float], list[Tensor]]:
    torch.manual_seed(3)
    real, latent = torch.randn(128, 20), torch.randn(128, 8)
    critic = copy.deepcopy(critic)
    make = Adam if constraint.clip_value is None else RMSprop
    optimizer = make(critic.parameters(), lr=1e-3)
    seen = critic_step(critic, generator, optimizer, constraint, real, latent, descent=Descent(dtype))
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    for tensor in (*(t for t in seen if t is not None), *gradients):
        assert tensor.dtype == torch.float32
    return [t.item() for t in seen if t is not None], gradients


@pytest.mark.parametrize("constraint", [GradientPenalty(10.0), WeightClipping(0.05)], ids=["gp", "clip"])
def test_bf16_figures_and_gradients_are_near_fp32(constraint: Constraint) -> None:
    """Within a few times what rounding weights and inputs to bf16 does by itself, in exact arithmetic."""
    torch.manual_seed(0)
    generator, critic = _pair()
    exact, gradients = _critic_step(generator, critic, constraint, None)
    lowered, low_gradients = _critic_step(generator, critic, constraint, torch.bfloat16)
    torch.manual_seed(3)
    real, latent = torch.randn(128, 20), torch.randn(128, 8)
    with torch.no_grad():
        scores, rounded = critic(real).double(), Plain(critic)(real)
        fakes, rounded_fakes = critic(generator(latent)).double(), Plain(critic)(Plain(generator)(latent))
    error = max((scores - rounded).abs().max().item(), (fakes - rounded_fakes).abs().max().item())
    assert error > 0
    assert exact != lowered
    estimate = 1
    assert abs(exact[estimate] - lowered[estimate]) < 2 * error
    for a, b in zip(gradients, low_gradients, strict=True):
        assert (a - b).norm() <= 16 * torch.finfo(torch.bfloat16).eps * a.norm()


def test_bf16_generator_step_is_near_fp32() -> None:
    torch.manual_seed(0)
    generator, critic = _pair()
    latent = torch.randn(64, 8)
    losses, gradients = [], []
    for dtype in (None, torch.bfloat16):
        copied = copy.deepcopy(generator)
        loss = generator_step(critic, copied, Adam(copied.parameters()), latent, descent=Descent(dtype))
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in copied.parameters() if p.grad is not None]))
        assert loss.dtype == gradients[-1].dtype == torch.float32
    assert losses[0] != losses[1]
    eps = torch.finfo(torch.bfloat16).eps
    with torch.no_grad():
        assert abs(losses[0] - losses[1]) < 4 * eps * critic(generator(latent)).abs().max()
    assert (gradients[0] - gradients[1]).norm() < 8 * eps * gradients[0].norm()


@pytest.mark.parametrize("architecture", ["mlp", "conv8"])
def test_bf16_resumes_bit_for_bit_and_keeps_fp32_state(tmp_path: Path, architecture: Any) -> None:
    config = Config(**SMALL, architecture=architecture, precision="bf16", channels_last=True, log_every=1)
    whole = build_trainer(config)
    Run(whole, tmp_path / "whole").train()
    first = build_trainer(config)
    Run(first, tmp_path / "parts").train(lambda record: first.stop() if record["iteration"] == 3 else None)
    second = build_trainer(config)
    run = Run(second, tmp_path / "parts")
    run.load()
    run.train()
    for a, b in (
        (whole.critic, second.critic),
        (whole.generator, second.generator),
        (whole.average.module, second.average.module),
    ):
        for mine, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.dtype in (torch.float32, torch.int64)
    for state in whole.critic_optimizer.state_dict()["state"].values():
        assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "parts" / "metrics.jsonl").read_text()


def test_channels_last_changes_the_layout_and_not_the_numbers() -> None:
    options: dict[str, Any] = {**SMALL, "architecture": "conv8", "log_every": 1}
    runs = [build_trainer(Config(**options, channels_last=last)) for last in (False, True)]
    weights = [p for p in runs[1].critic.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    seen: list[Tensor] = []
    runs[1].critic.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses = []
    for trainer in runs:
        torch.manual_seed(0)
        losses.append((trainer.iterate() or {})["critic_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_a_run_in_a_16_bit_type_is_opened_anywhere(tmp_path: Path) -> None:

    Run.start(tmp_path, Config(**SMALL, precision="bf16")).train()
    path = tmp_path / "config.json"
    written = path.read_text().replace('"cpu"', '"cuda"')
    for elsewhere in (written.replace('"bf16"', '"fp16"'), written.replace('"auto"', '"on"')):
        path.write_text(elsewhere)
        trainer = Run.open(tmp_path, "cpu").trainer
        assert trainer.config.precision == "fp32"
        assert trainer.sample(3).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "tf32"}, "--precision tf32 needs --device cuda, got --device cpu"),
        ({"precision": "fp16"}, "--precision fp16 needs --device cuda, got --device cpu: a CPU multiplies"),
        ({"precision": "int8"}, "--precision must be one of auto, fp32, tf32, bf16, fp16, got int8"),
        ({"data": "8gaussians", "channels_last": True}, r"--channels-last is for images; .* shape \(2,\)"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_trainer(Config(**options))


def test_settings_of_cuda_products_are_restored() -> None:
    """The attributes exist without a device, too."""
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    for name, expected in (("tf32", "tf32"), ("fp32", "ieee"), ("bf16", "ieee")):
        with float32_products(name, torch.device("cuda")):  # type: ignore[arg-type]
            assert [place.fp32_precision for place in places] == [expected] * 3
        assert [place.fp32_precision for place in places] == before
    for name, device in (("fp32", "cpu"), ("auto", "cuda")):
        with float32_products(name, torch.device(device)):  # type: ignore[arg-type]
            assert [place.fp32_precision for place in places] == before


def test_settings_of_torch_before_2_9(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, cudnn = SimpleNamespace(allow_tf32=False), SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    for name, expected in (("tf32", (True, True)), ("fp32", (False, False)), ("auto", (False, True))):
        with float32_products(name, torch.device("cuda")):  # type: ignore[arg-type]
            assert (matmul.allow_tf32, cudnn.allow_tf32) == expected
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, True)


@pytest.mark.parametrize(
    ("machine", "bf16", "amx", "slow"),
    [
        ("x86_64", lambda: False, lambda: False, True),
        ("AMD64", lambda: False, lambda: False, True),
        ("x86_64", lambda: True, lambda: False, False),
        ("x86_64", lambda: False, lambda: True, False),
        ("aarch64", lambda: False, lambda: False, False),
        ("x86_64", None, lambda: False, False),  # a torch that cannot tell
    ],
)
def test_emulated_bf16_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, machine: str, bf16: Any, amx: Any, slow: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", amx)
    config = Config(**{**SMALL, "iterations": 1, "data": "8gaussians"}, precision="bf16")
    with caplog.at_level(logging.WARNING, "wgan_fast"):
        build_trainer(config).train()
        build_trainer(dataclasses.replace(config, precision="auto")).train()
    expected = "--precision bf16 will be some 20 times slower than fp32: this CPU has no instructions for it"
    assert caplog.messages == [expected] * slow


def test_channels_last_is_the_default_where_it_is_faster() -> None:
    images = partial(Config, sample_shape=(3, 32, 32))
    assert images().channels_last
    assert not images(channels_last=False).channels_last
    assert not images(device="cuda").channels_last
    assert images(device="cuda", precision="bf16").channels_last
    assert not images(architecture="mlp").channels_last
    assert not Config().channels_last


def test_a_resumed_optimizer_walks_over_weights_and_moments_together(tmp_path: Path) -> None:
    """Of one layout, or the step falls back to a slower path."""
    config = Config(**SMALL, architecture="conv8")
    Run(build_trainer(config), tmp_path).train()
    trainer = build_trainer(config)
    Run(trainer, tmp_path).load()
    for optimizer in (trainer.critic_optimizer, trainer.generator_optimizer):
        for parameter, state in optimizer.state.items():
            moments = [value for name, value in state.items() if name != "step"]
            assert moments
            assert all(moment.stride() == parameter.stride() for moment in moments)
