"""What recording a step asks of everything around it, with a stand-in for the capture: buffers, rewinding, schedules,
bursts, fallbacks. On a GPU tests/gpu/test_gpu_graphs.py shows the same with CUDA graphs."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recorded_calls import RecordedCalls
from torch import Tensor, nn

from wgan_fast import backends
from wgan_fast.optim import Adam
from wgan_fast.training import Config, Run, Trainer, UserError, build_models
from wgan_fast.training.data.points import eight_gaussians
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.loop.draws import Upload
from wgan_fast.training.loop.graphs import CudaCapture, graphed_step, rewound

SMALL: dict[str, Any] = {"width": 12, "batch_size": 8, "n_critic": 3, "critic_burst": False, "iterations": 6}


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled kernels take addresses: the stand-in would not see them."""
    monkeypatch.setattr(backends, "_PREFERRED", "reference")


def _state(trainer: Trainer) -> dict[str, Tensor]:
    """All that training changes."""
    state = {"random": torch.get_rng_state(), "order": trainer.draws.order.get_state()}
    for name, module in (
        ("critic", trainer.critic),
        ("generator", trainer.generator),
        ("average", trainer.average.module),
    ):
        state |= {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}
    for name, optimizer in (("D", trainer.critic_optimizer), ("G", trainer.generator_optimizer)):
        for index, values in optimizer.state_dict()["state"].items():
            state |= {f"{name}.{index}.{key}": value.clone() for key, value in values.items()}
    return state


def _assert_same(mine: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        if name.startswith("average."):  # lerp and its three steps round differently
            torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(value, other[name]), name


CASES: dict[str, dict[str, Any]] = {
    "gp": {"data": "8gaussians", "constraint": "gp", "lr_decay": True},
    "clip": {"data": "8gaussians", "constraint": "clip", "lr_decay": True},
    "batch norm": {"data": "digits", "constraint": "gp", "architecture": "conv8"},
    "conditional": {"data": "digits", "constraint": "lp", "conditional": True},
    "no average": {"data": "8gaussians", "constraint": "dragan", "ema_decay": 0.0},
    "spectral": {"data": "8gaussians", "constraint": "spectral"},
    "orthogonal": {"data": "8gaussians", "constraint": "orthogonal"},
    "bf16": {"data": "digits", "constraint": "gp", "precision": "bf16"},
}


@pytest.mark.parametrize("case", CASES)
def test_replayed_training_equals_eager(case: str, tmp_path: Path) -> None:
    """Same bits: weights, optimizer states, random generators, every line of the log."""
    config = Config(**{**SMALL, **CASES[case]}, log_every=1)
    capture = RecordedCalls()
    eager, replayed = build_trainer(config), build_trainer(config, capture=capture)
    states, logs = [], []
    for trainer in (eager, replayed):
        torch.manual_seed(7)
        Run(trainer, tmp_path / str(len(states))).train()
        states.append(_state(trainer))
        logs.append((tmp_path / str(len(logs)) / "metrics.jsonl").read_text())
    _assert_same(states[1], states[0])
    assert (capture.recordings, capture.replays, capture.warm_ups) == (1, 6, 3)
    if eager.constraint.clip_value is None and case not in ("spectral", "orthogonal"):
        assert logs[0] == logs[1]  # the others log a gradient norm at points of the average


def test_a_burst_replays_the_critic_step() -> None:
    """The 25th iteration is the last of the first burst."""
    config = Config(**{**SMALL, "critic_burst": True, "iterations": 28}, data="8gaussians", constraint="clip")
    capture = RecordedCalls()
    eager, replayed = build_trainer(config), build_trainer(config, capture=capture)
    states = []
    for trainer in (eager, replayed):
        torch.manual_seed(7)
        trainer.iteration = 24
        trainer.train()
        states.append(_state(trainer))
    _assert_same(states[1], states[0])
    assert capture.recordings == 3  # a critic step, a generator step, an iteration
    assert capture.replays == (100 + 1) + 3


def test_recording_changes_nothing() -> None:
    """Not even running statistics, step counts, averages or random states; a state that was not there is zeros."""
    trainer = build_trainer(Config(**SMALL, data="digits", architecture="conv8"), capture=RecordedCalls())
    batches = [tensor for _ in range(3) for tensor in trainer.draws.batch()]
    trainer._set_schedules()
    before = _state(trainer)
    step = graphed_step(trainer._whole_iteration, batches, capture=RecordedCalls(), rewind=trainer.graphs.rewound())
    after = _state(trainer)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    made = after.keys() - before.keys()
    assert made
    assert not any(after[name].any() for name in made)
    step(*batches)
    assert not torch.equal(_state(trainer)["critic.0.weight"], before["critic.0.weight"])


class Shrinking:
    """Data whose every fourth batch is smaller, as the last of an epoch."""

    name = "shrinking"
    sample_shape = (2,)

    def __init__(self) -> None:
        self.drawn = 0
        self.points = eight_gaussians()

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        self.drawn += 1
        return self.points.batch(size if self.drawn % 4 else size - 3, generator)

    held_out = batch


@pytest.mark.parametrize("n_critic", [1, 3])
def test_a_smaller_batch_takes_the_eager_step(n_critic: int) -> None:
    config = Config(**{**SMALL, "n_critic": n_critic}, log_every=100)
    capture = RecordedCalls()
    states = []
    for graphs in (False, True):
        torch.manual_seed(0)
        pair = build_models("mlp", (2,), 2, 8)
        trainer = Trainer(*pair, Shrinking(), config, capture=capture if graphs else None)
        for _ in range(6):
            trainer.iterate()
        states.append(_state(trainer))
    _assert_same(states[1], states[0])
    assert capture.recordings == 1
    assert 0 < capture.replays < 6


class Impatient(nn.Module):
    """A critic that reads a number from the device in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x)
        return scores * 2 if scores.mean().item() > 100 else scores


def test_what_cannot_be_recorded_runs_eagerly_after_one_warning() -> None:
    config = Config(**{**SMALL, "critic_burst": True}, constraint="clip", log_every=100)
    states = []
    for graphs in (False, True):
        torch.manual_seed(0)
        capture = RecordedCalls() if graphs else None
        trainer = Trainer(nn.Linear(2, 2), Impatient(), eight_gaussians(), config, capture=capture)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                trainer.iterate()
        messages = [str(w.message) for w in caught]
        expected = (
            "the critic step cannot be recorded as a CUDA graph, training continues eagerly: "
            "the step reads a number from the device"
        )
        assert messages == [expected] * graphs
        states.append(_state(trainer))
    _assert_same(states[1], states[0])


def test_after_a_failed_capture_the_current_stream_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.graph ends the capture, which raises where it has failed, before it goes back from its stream."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    current: list[Any] = [stream]

    @contextmanager
    def within(new: Any) -> Iterator[None]:
        before, current[0] = current[0], new
        try:
            yield
        finally:
            current[0] = before

    @contextmanager
    def failing_graph(graph: Any, *, pool: Any, stream: Any) -> Iterator[None]:
        current[0] = stream
        yield
        raise RuntimeError("the capture was invalidated")

    cuda = SimpleNamespace(
        device=lambda device: nullcontext(),
        graph_pool_handle=object,
        Stream=lambda device: SimpleNamespace(wait_stream=lambda other: None),
        current_stream=lambda: current[0],
        stream=within,
        synchronize=lambda: None,
        get_sync_debug_mode=lambda: 0,
        set_sync_debug_mode=lambda mode: None,
        CUDAGraph=object,
        graph=failing_graph,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    with pytest.raises(RuntimeError, match="invalidated"):
        CudaCapture(torch.device("cuda"))(lambda: None)
    assert current == [stream]


def test_changed_numbers_are_recorded_anew() -> None:
    capture = RecordedCalls()
    trainer = build_trainer(Config(**SMALL, data="8gaussians"), capture=capture)
    trainer.iterate()
    trainer.critic_optimizer.param_groups[0]["lr"].fill_(0.0)  # a scalar of the device: no new recording
    frozen = copy.deepcopy(trainer.critic.state_dict())
    trainer.iterate()
    assert capture.recordings == 1
    assert all(torch.equal(frozen[name], value) for name, value in trainer.critic.state_dict().items())
    for number, value in (("betas", (0.0, 0.5)), ("clip_value", 1e-3)):
        trainer.critic_optimizer.param_groups[0][number] = value
        trainer.iterate()
    assert capture.recordings == 3
    assert max(p.abs().max().item() for p in trainer.critic.parameters()) <= 1.001e-3
    assert len(trainer.graphs._steps) == 1  # type: ignore[union-attr]


def test_a_resumed_run_is_recorded_anew(tmp_path: Path) -> None:
    """A checkpoint replaces the optimizers' tensors, which the old recording knew."""
    config = Config(**SMALL, data="8gaussians", log_every=1, lr_decay=True)
    whole = build_trainer(config)
    Run(whole, tmp_path / "whole").train()
    part = build_trainer(config, capture=RecordedCalls())
    Run(part, tmp_path / "part").train(lambda record: part.stop() if record["iteration"] == 3 else None)
    for _ in range(2):  # the second load finds a trainer that has recorded already
        Run(part, tmp_path / "part").load(3)
        part.train()
        mine, other = _state(part), _state(whole)
        other["random"] = mine["random"]
        _assert_same(mine, other)
    eager = build_trainer(config)
    Run(eager, tmp_path / "part").load(3)
    eager.train()
    _assert_same({k: v for k, v in _state(eager).items() if "." in k}, {k: v for k, v in mine.items() if "." in k})


def test_graphed_step_copies_inputs_and_rewinds_what_failed() -> None:
    weight = torch.ones(3)

    def step(x: Tensor) -> Tensor:
        weight.mul_(2)
        return (weight * x).sum()

    graphed = graphed_step(step, [torch.zeros(3)], capture=RecordedCalls(), rewind=rewound([weight], []))
    assert torch.equal(weight, torch.ones(3))
    first = graphed(torch.full((3,), 5.0))
    assert first.item() == 30.0
    assert graphed(torch.ones(3)) is first
    assert first.item() == 12.0
    assert graphed(torch.ones(1)).item() == 24.0  # another shape: the function itself
    assert graphed(torch.ones(3, dtype=torch.float64)).dtype == torch.float64

    def broken(x: Tensor) -> Tensor:
        weight.zero_()
        raise RuntimeError("broken")

    before = weight.clone()
    with pytest.raises(RuntimeError, match="broken"):
        graphed_step(broken, [torch.zeros(3)], capture=RecordedCalls(), rewind=rewound([weight], []))
    assert torch.equal(weight, before)


def test_rewind_puts_back_what_was_there_and_zeroes_what_was_not() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = Adam(network.parameters(), capturable=True)
    generator = torch.Generator().manual_seed(3)
    before = copy.deepcopy(network.state_dict())
    addresses = [p.data_ptr() for p in network.parameters()]
    with rewound([*network.parameters(), *network.buffers()], [optimizer], [generator]):
        drawn = torch.rand(4, generator=generator)
        network(torch.randn(5, 2)).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert addresses == [p.data_ptr() for p in network.parameters()]
    assert optimizer.state
    assert not any(value.any() for state in optimizer.state.values() for value in state.values())
    assert torch.equal(drawn, torch.rand(4, generator=generator))


def test_gradients_keep_their_addresses() -> None:
    """The step kernels know gradients by address."""
    trainer = build_trainer(Config(**SMALL, data="8gaussians"), capture=RecordedCalls())
    trainer.graphs.failure = "eager"  # type: ignore[union-attr]
    trainer.iterate()
    networks = (trainer.critic, trainer.generator)
    before = [p.grad.data_ptr() for network in networks for p in network.parameters() if p.grad is not None]
    trainer.iterate()
    assert before == [p.grad.data_ptr() for network in networks for p in network.parameters() if p.grad is not None]


def test_graph_option() -> None:
    with pytest.raises(UserError, match="--graph on needs --device cuda, got --device cpu"):
        build_trainer(Config(graph="on"))
    with pytest.raises(UserError, match="--graph must be one of auto, on, off"):
        build_trainer(Config(graph="yes"))  # type: ignore[arg-type]
    for mode in ("auto", "off"):
        assert build_trainer(dataclasses.replace(Config(**SMALL, data="digits"), graph=mode)).graphs is None


def test_without_a_device_nothing_is_uploaded() -> None:
    tensor = torch.ones(2)
    assert Upload(torch.device("cpu"))(tensor) is tensor
