"""--precision and --channels-last: near fp32 by the error of the 16-bit type, resumable, refused with a reason."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wgan_fast.constraints import Constraint, GradientPenalty, WeightClipping
from wgan_fast.optim import Adam, RMSprop
from wgan_fast.training import Config, UserError
from wgan_fast.training.config import resolve
from wgan_fast.training.run.folder import build_trainer, open_run
from wgan_fast.training.step.precision import float32_products
from wgan_fast.training.step.steps import critic_step, generator_step

SMALL: dict[str, Any] = {"width": 32, "batch_size": 16, "n_critic": 2, "critic_burst": False, "iterations": 6}


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
    seen = critic_step(critic, generator, optimizer, constraint, real, latent, autocast_dtype=dtype)
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
        loss = generator_step(critic, copied, Adam(copied.parameters()), latent, autocast_dtype=dtype)
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
    whole.train(tmp_path / "whole")
    first = build_trainer(config)
    first.train(tmp_path / "parts", lambda record: first.stop() if record["iteration"] == 3 else None)
    second = build_trainer(config)
    second.load(tmp_path / "parts")
    second.train(tmp_path / "parts")
    for a, b in ((whole.critic, second.critic), (whole.generator, second.generator), (whole.average, second.average)):
        for mine, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.dtype in (torch.float32, torch.int64)
    for state in whole.critic_optimizer.state_dict()["state"].values():
        assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "parts" / "metrics.jsonl").read_text()


def test_channels_last_changes_the_layout_and_not_the_numbers() -> None:
    runs = [build_trainer(Config(**SMALL, architecture="conv8", channels_last=last)) for last in (False, True)]
    weights = [p for p in runs[1].critic.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    seen: list[Tensor] = []
    runs[1].critic.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses = []
    for trainer in runs:
        torch.manual_seed(0)
        losses.append(trainer.algorithm.iterate()[0].loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_a_run_in_a_16_bit_type_is_opened_anywhere(tmp_path: Path) -> None:
    from wgan_fast.training.run.folder import start_run

    start_run(tmp_path, Config(**SMALL, precision="bf16")).train(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"bf16"', '"fp16"').replace('"cpu"', '"cuda"').replace('"auto"', '"on"'))
    trainer = open_run(tmp_path, "cpu")
    assert trainer.config.precision == "fp32"
    assert trainer.sample(3).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "tf32"}, "--precision tf32 needs --device cuda, got --device cpu"),
        ({"precision": "fp16"}, "--precision fp16 needs --device cuda, got --device cpu: a CPU multiplies"),
        ({"precision": "int8"}, "--precision must be one of fp32, tf32, bf16, fp16, got int8"),
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
    with float32_products("fp32", torch.device("cpu")):
        assert [place.fp32_precision for place in places] == before


def test_channels_last_is_the_default_where_it_is_faster() -> None:
    shape = (3, 32, 32)
    assert resolve(Config(), shape).channels_last
    assert not resolve(Config(channels_last=False), shape).channels_last
    assert not resolve(Config(device="cuda"), shape).channels_last
    assert resolve(Config(device="cuda", precision="bf16"), shape).channels_last
    assert not resolve(Config(architecture="mlp"), shape).channels_last
    assert not resolve(Config(), (2,)).channels_last


def test_a_resumed_optimizer_walks_over_weights_and_moments_together(tmp_path: Path) -> None:
    """Of one layout, or the step falls back to a slower path."""
    config = Config(**SMALL, architecture="conv8")
    build_trainer(config).train(tmp_path)
    trainer = build_trainer(config)
    trainer.load(tmp_path)
    for optimizer in (trainer.critic_optimizer, trainer.generator_optimizer):
        for parameter, state in optimizer.state.items():
            moments = [value for name, value in state.items() if name != "step"]
            assert moments
            assert all(moment.stride() == parameter.stride() for moment in moments)
