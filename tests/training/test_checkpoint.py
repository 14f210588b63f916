"""What is saved comes back, what is damaged is refused, and a reader never sees half a checkpoint."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wgan_fast.training import UserError
from wgan_fast.training import checkpoint as module
from wgan_fast.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    nested,
    random_state,
    restore_random_state,
    save_checkpoint,
)


def _checkpoint(value: float = 1.0) -> Checkpoint:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(4.0)
    weights = {"a.x": shared, "a.y": shared.view(2, 2).T, "b.x": torch.tensor(value), "b.n": torch.tensor(3)}
    return Checkpoint(weights, {"iteration": 5, "optimizer": optimizer.state_dict(), "betas": (0.0, 0.9)})


def test_round_trip(tmp_path: Path) -> None:
    saved = _checkpoint()
    folder = save_checkpoint(tmp_path, 5, saved)
    assert sorted(p.name for p in folder.iterdir()) == ["state.pt", "weights.safetensors"]
    weights, state = load_checkpoint(tmp_path)
    assert weights.keys() == saved.weights.keys()
    for name, tensor in saved.weights.items():
        assert torch.equal(weights[name], tensor)
        assert weights[name].dtype == tensor.dtype
    assert state["betas"] == (0.0, 0.9)
    moment = saved.state["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], moment)
    assert nested(weights, "a").keys() == {"x", "y"}


def test_the_newest_is_read_and_the_oldest_go(tmp_path: Path) -> None:
    for iteration in (10, 200, 3000):
        save_checkpoint(tmp_path, iteration, _checkpoint(float(iteration)))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000200", "00003000"]
    assert load_checkpoint(tmp_path).weights["b.x"] == 3000


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_failure_while_saving_leaves_the_last_one(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, _checkpoint(1.0))

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(torch, "save", fail) if moment == "write" else broken.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space left"):
            save_checkpoint(tmp_path, 2, _checkpoint(2.0))
    assert load_checkpoint(tmp_path).weights["b.x"] == 1
    save_checkpoint(tmp_path, 2, _checkpoint(2.0))
    assert load_checkpoint(tmp_path).weights["b.x"] == 2


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "missing"])
def test_damage_is_one_sentence(tmp_path: Path, file: str, damage: str) -> None:
    path = save_checkpoint(tmp_path, 5, _checkpoint()) / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "noise": b"\x93" * 300}[damage])
    with pytest.raises(UserError, match="the checkpoint is damaged or foreign") as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_would_execute_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, _checkpoint()) / "state.pt"
    victim = tmp_path / "executed"
    for writer in (
        lambda: torch.save(Malicious(victim), path),
        lambda: path.write_bytes(pickle.dumps(Malicious(victim), protocol=2)),
    ):
        writer()
        with pytest.raises(UserError, match="damaged or foreign"):
            load_checkpoint(tmp_path)
        assert not victim.exists()


def test_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint in it"):
        load_checkpoint(tmp_path)
    folder = save_checkpoint(tmp_path, 5, _checkpoint())
    shutil.move(folder, folder.with_name(".00000005-99"))
    with pytest.raises(UserError, match="no checkpoint in it"):
        load_checkpoint(tmp_path)


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    device = torch.device("cpu")
    np.random.standard_normal()  # noqa: NPY002 - the global generator is what is saved
    random.gauss(0, 1)
    save_checkpoint(tmp_path, 1, Checkpoint({}, {"random": random_state(device)}))

    def draw() -> tuple[float, float, float]:
        return random.gauss(0, 1), float(np.random.standard_normal()), torch.rand(()).item()  # noqa: NPY002

    expected = draw()
    restore_random_state(load_checkpoint(tmp_path).state["random"], device)
    assert draw() == expected


def test_the_temporary_folder_is_beside_and_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    plain = os.replace

    def spy(source: Path, target: Path) -> None:
        seen.extend(p.name for p in (tmp_path / "checkpoints").iterdir())
        assert module._complete(tmp_path) == []
        plain(source, target)

    monkeypatch.setattr(os, "replace", spy)
    save_checkpoint(tmp_path, 7, _checkpoint())
    assert seen == [f".00000007-{os.getpid()}"]
