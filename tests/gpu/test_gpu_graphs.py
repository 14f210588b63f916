"""Captured training against eager training on a GPU: same numbers, no waiting, nothing left behind by the warm-up."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wgan_fast.training import Config, Trainer
from wgan_fast.training.data.points import eight_gaussians
from wgan_fast.training.data.sets import split
from wgan_fast.training.loop.build import build_trainer

SMALL: dict[str, Any] = {"width": 64, "batch_size": 32, "n_critic": 3, "critic_burst": False, "device": "cuda"}
CASES: dict[str, dict[str, Any]] = {
    "gp": {"data": "8gaussians", "constraint": "gp", "lr_decay": True},
    "clip": {"data": "8gaussians", "constraint": "clip", "lr_decay": True},
    "batch norm": {"data": "digits", "constraint": "gp", "architecture": "conv8", "width": 16},
    "conditional": {"data": "digits", "constraint": "gp", "conditional": True},
    "bf16": {"data": "digits", "constraint": "gp", "precision": "bf16", "channels_last": True, "architecture": "conv8"},
}


@pytest.fixture(autouse=True)
def _deterministic(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    networks = {"critic": trainer.critic, "generator": trainer.generator, "average": trainer.average.module}
    return {f"{n}.{key}": v.clone() for n, module in networks.items() for key, v in module.state_dict().items()}


@pytest.mark.parametrize("case", CASES)
def test_200_captured_iterations_equal_200_eager(case: str, cuda: torch.device) -> None:
    """Same seeds, same losses and weights to rounding, same random numbers afterwards."""
    config = Config(**{**SMALL, **CASES[case], "iterations": 200, "log_every": 1})
    results, draws = [], []
    for mode in ("off", "on"):
        trainer = build_trainer(dataclasses.replace(config, graph=mode))
        torch.manual_seed(7)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*cannot be recorded")
            losses = torch.tensor([(trainer.iterate() or {})["critic_loss"] for _ in range(200)])
        results.append(_weights(trainer) | {"losses": losses})
        draws.append(torch.rand(4, device=cuda))
        assert (trainer.graphs is None) == (mode == "off")
    assert torch.equal(*draws)
    for name, eager in results[0].items():
        if not name.startswith("average."):
            torch.testing.assert_close(results[1][name], eager, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_burst_equals_eager(cuda: torch.device) -> None:
    config = Config(**{**SMALL, "critic_burst": True, "iterations": 30}, data="8gaussians", constraint="clip")
    results = []
    for mode in ("off", "on"):
        trainer = build_trainer(dataclasses.replace(config, graph=mode))
        torch.manual_seed(7)
        for _ in range(28):
            trainer.iterate()
        results.append(_weights(trainer))
    for name, eager in results[0].items():
        torch.testing.assert_close(results[1][name], eager, rtol=1e-3, atol=1e-5)


def test_recording_changes_nothing(cuda: torch.device) -> None:
    trainer = build_trainer(Config(**{**SMALL, "width": 16}, data="digits", architecture="conv8", graph="on"))
    assert trainer.graphs is not None
    batches = [tensor for _ in range(3) for tensor in trainer.draws.batch()]
    trainer._set_schedules()
    torch.manual_seed(5)
    before = _weights(trainer) | {"random": torch.cuda.get_rng_state(cuda)}
    ran: list[str] = []

    def spy(*inputs: Tensor) -> Any:
        ran.append("called")
        return trainer._whole_iteration(*inputs)

    from wgan_fast.training.loop.graphs import CudaCapture, graphed_step

    graphed_step(spy, batches, capture=CudaCapture(cuda), rewind=trainer.graphs.rewound())
    assert len(ran) == 4
    after = _weights(trainer) | {"random": torch.cuda.get_rng_state(cuda)}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for optimizer in (trainer.critic_optimizer, trainer.generator_optimizer):
        assert not any(value.any() for state in optimizer.state.values() for value in state.values())


@pytest.mark.parametrize("place", ["cuda", "cpu"])
@pytest.mark.parametrize("data", ["points", "samples"])
def test_the_steady_state_never_waits(place: str, data: str, cuda: torch.device) -> None:
    """Neither with data on the device nor with data that comes from the host."""
    shape = (2,) if data == "points" else (1, 8, 8)
    source: Any = split("held", torch.randn(200, *shape).tanh(), device=place)
    if data == "points" and place == "cuda":
        source = eight_gaussians()
    generator = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, torch.Size(shape).numel()))
    generator.append(nn.Unflatten(1, shape))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 64), nn.ReLU(), nn.Linear(64, 1))
    config = Config(**SMALL, sample_shape=shape, latent_dim=4, graph="on", iterations=100, lr_decay=True, log_every=100)
    trainer = Trainer(generator, critic, source, config)
    for _ in range(5):
        trainer.iterate()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            trainer.iterate()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.graphs is not None
    assert trainer.graphs.failure is None


class Impatient(nn.Module):
    """A critic that reads a number from the device in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x)
        return scores * 2 if scores.mean().item() > 100 else scores


def test_what_cannot_be_captured_runs_eagerly_after_one_warning(cuda: torch.device) -> None:
    """And the random generators still work."""
    weights = []
    start = copy.deepcopy((nn.Linear(2, 2), Impatient()))
    for mode in ("off", "on"):
        generator, critic = copy.deepcopy(start)
        config = Config(**SMALL, latent_dim=2, graph=mode, iterations=10)
        trainer = Trainer(generator, critic, eight_gaussians(), config)
        torch.manual_seed(1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                trainer.iterate()
        messages = [str(w.message) for w in caught if "cannot be recorded" in str(w.message)]
        assert len(messages) == (mode == "on")
        weights.append(_weights(trainer))
    for name, eager in weights[0].items():
        torch.testing.assert_close(weights[1][name], eager, rtol=1e-3, atol=1e-5)
    assert torch.rand(3, device=cuda).isfinite().all()


def test_graphs_do_not_grow(cuda: torch.device) -> None:
    trainer = build_trainer(Config(**SMALL, data="8gaussians", graph="on", iterations=300, log_every=300))
    for _ in range(10):
        trainer.iterate()
    before = torch.cuda.memory_allocated()
    for _ in range(100):
        trainer.iterate()
    assert torch.cuda.memory_allocated() == before
