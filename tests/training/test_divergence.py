"""A training that is no longer finite: noticed at its first iteration, never saved, stopped or taken back."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wgan_fast.training import Config, Trainer, UserError
from wgan_fast.training.loop.health import UNREAD_LIMIT, NonFinite, Watch
from wgan_fast.training.loop.trainer import Record
from wgan_fast.training.run.checkpoint import iterations, load_checkpoint
from wgan_fast.training.run.folder import Run


def _config(**options: Any) -> Config:
    small = {"width": 8, "batch_size": 8, "n_critic": 1, "critic_burst": False, "log_every": 5, "checkpoint_every": 4}
    return Config(**{"data": "8gaussians", "iterations": 20, **small, **options})


def _poisoned(trainer: Trainer, at: int, change: Callable[[Trainer], None]) -> Callable[[Record], None]:
    """Called with every record, does something to the trainer after iteration ``at``, once."""
    done: list[int] = []

    def on_record(record: Record) -> None:
        if record["iteration"] == at and not done:
            done.append(at)
            change(trainer)

    return on_record


def _nan_weight(trainer: Trainer) -> None:
    with torch.no_grad():
        next(trainer.critic.parameters())[0] = torch.nan


def test_the_first_bad_iteration_is_named_and_the_checkpoint_before_it(tmp_path: Path) -> None:
    run = Run.start(tmp_path, _config())
    expected = "the training diverged: wasserstein_estimate is nan at iteration 11; the last good checkpoint is of "
    with pytest.raises(UserError, match=expected + "iteration 8, and --resume --on-nonfinite restore"):
        run.train(_poisoned(run.trainer, 10, _nan_weight))
    assert iterations(tmp_path) == [4, 8]
    assert [json.loads(line)["iteration"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [5, 10]


def test_without_a_folder_it_stops() -> None:
    data = torch.randn(30, 2)
    trainer = Trainer(nn.Linear(2, 2), nn.Linear(2, 1), data, _config(data="samples", latent_dim=2))
    _nan_weight(trainer)
    with pytest.raises(UserError, match="the training diverged: wasserstein_estimate is nan at iteration 1; a lower"):
        trainer.train()


def _infinite_moment(trainer: Trainer) -> None:
    """Adam's update is then 0 for ever, and every loss is finite."""
    state = trainer.generator_optimizer.state[next(trainer.generator.parameters())]
    state["exp_avg_sq"][0] = torch.inf


class Forgiving(nn.Module):
    """A critic that looks at part of its weights only, so that no loss shows what the rest is."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.unseen = nn.Linear(2, 1), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.seen(x) + self.unseen[0]


@pytest.mark.parametrize("where", ["weight", "moment"])
def test_what_the_losses_do_not_show_is_not_saved(tmp_path: Path, where: str) -> None:
    critic = Forgiving()
    trainer = Trainer(nn.Linear(2, 2), critic, torch.randn(30, 2), _config(data="samples", latent_dim=2))

    def poison_weight(_: Trainer) -> None:
        with torch.no_grad():
            critic.unseen[1] = torch.inf

    run = Run(trainer, tmp_path)
    poisoned = _poisoned(trainer, 10, poison_weight if where == "weight" else _infinite_moment)
    name = "critic.unseen" if where == "weight" else "generator_optimizer.0.exp_avg_sq"
    with pytest.raises(UserError, match=f"{name} holds NaN or infinite values at iteration 12; .* of iteration 8"):
        run.train(poisoned)
    assert iterations(tmp_path) == [4, 8]
    with pytest.raises(UserError, match=f"nothing was saved: {name} holds"):
        run.save()
    assert iterations(tmp_path) == [4, 8]


def test_networks_that_start_so_are_refused(tmp_path: Path) -> None:
    run = Run.start(tmp_path, _config())
    _nan_weight(run.trainer)
    with pytest.raises(UserError, match=r"cannot be trained: critic.1.weight holds NaN .* iteration 0"):
        run.train()
    assert iterations(tmp_path) == []


@pytest.mark.needs("ot")
def test_restore_goes_back_with_half_the_learning_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = _config(on_nonfinite="restore", log_every=1)
    run = Run.start(tmp_path, config)
    trainer = run.trainer
    with caplog.at_level(logging.WARNING, "wgan_fast"):
        assert not run.train(_poisoned(trainer, 10, _nan_weight)).stopped
    (message,) = caplog.messages
    assert "wasserstein_estimate is nan at iteration 11: back to the checkpoint of iteration 8" in message
    assert "learning rate 0.00025 from there on (restore 1 of at most 3)" in message
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in records] == list(range(1, 21))
    assert [r.get("restores") for r in records] == [None] * 8 + [1] * 12
    for optimizer in (trainer.critic_optimizer, trainer.generator_optimizer):
        assert optimizer.param_groups[0]["lr"] == 0.00025
    assert all(math.isfinite(value) for r in records for value in r.values())
    resumed = Run.resume(tmp_path, trainer.config)
    assert resumed.trainer.restores == 1
    assert load_checkpoint(tmp_path).state["restores"] == 1


@pytest.mark.needs("ot")
def test_restores_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run.start(tmp_path, _config(on_nonfinite="restore", log_every=1))

    def always(record: Record) -> None:
        if record["iteration"] >= 6:
            _nan_weight(run.trainer)

    expected = "iteration 7, after the learning rate was lowered 3 times; the last good checkpoint is of iteration 4"
    with pytest.raises(UserError, match=expected):
        run.train(always)
    assert [f"restore {n} of" in message for n, message in enumerate(caplog.messages, 1)] == [True] * 3
    assert iterations(tmp_path) == [0, 4]


def test_watch_reads_every_iteration_at_once() -> None:
    watch = Watch()
    assert watch.read() == {}
    for iteration in range(UNREAD_LIMIT):
        assert not watch.full
        value = torch.tensor(float(iteration), dtype=torch.bfloat16, requires_grad=True)
        watch.note(iteration, {"a": value, "b": None, "c": torch.tensor(-1.0, dtype=torch.float64)})
    assert watch.full
    assert watch.read() == {"a": 99.0, "c": -1.0}
    assert not watch.full
    for iteration, value in enumerate((0.0, -math.inf, math.nan)):
        watch.note(iteration, {"a": torch.tensor(value)})
    with pytest.raises(NonFinite, match=r"^a is -inf at iteration 1$"):
        watch.read()
    assert watch.read() == {}
    means = Watch(lambda figures: figures / 2)
    means.note(1, {"a": torch.tensor(4.0)})
    assert means.read() == {"a": 2.0}
