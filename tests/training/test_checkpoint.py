"""What is saved comes back, what is damaged is refused, and a reader never sees half a checkpoint."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wgan_fast.training import UserError
from wgan_fast.training.run.checkpoint import Checkpoint, iterations, load_checkpoint, save_checkpoint, verify
from wgan_fast.training.run.state import random_state, restore_random_state


def _checkpoint(value: float = 1.0) -> Checkpoint:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(4.0)
    weights = {"a.x": shared, "a.y": shared.view(2, 2).T, "b.x": torch.tensor(value), "b.n": torch.tensor(3)}
    return Checkpoint(weights, {"value": value, "optimizer": optimizer.state_dict(), "betas": (0.0, 0.9)})


def test_round_trip(tmp_path: Path) -> None:
    saved = _checkpoint()
    folder = save_checkpoint(tmp_path, 5, saved)
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "state.pt", "weights.safetensors"]
    weights, state = load_checkpoint(tmp_path)
    assert weights.keys() == saved.weights.keys()
    for name, tensor in saved.weights.items():
        assert torch.equal(weights[name], tensor)
        assert weights[name].dtype == tensor.dtype
    assert state["betas"] == (0.0, 0.9)
    moment = saved.state["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], moment)


def test_the_newest_is_read_and_the_oldest_go(tmp_path: Path) -> None:
    for iteration in (10, 200, 3000):
        save_checkpoint(tmp_path, iteration, _checkpoint(float(iteration)))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000200", "00003000"]
    assert load_checkpoint(tmp_path).weights["b.x"] == 3000


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint in it"):
        load_checkpoint(tmp_path, which="best")
    save_checkpoint(tmp_path, 1, _checkpoint(1.0))
    with pytest.raises(UserError, match="none of its checkpoints has been compared"):
        load_checkpoint(tmp_path, which="best")
    for iteration, distance in ((2, 0.5), (3, 0.2), (4, 0.3), (5, None), (6, 0.4), (7, 0.9)):
        save_checkpoint(tmp_path, iteration, _checkpoint(float(iteration)), keep=2, distance=distance)
    assert iterations(tmp_path) == [3, 6, 7]
    assert load_checkpoint(tmp_path, which="best").weights["b.x"] == 3
    assert load_checkpoint(tmp_path, which="6").weights["b.x"] == load_checkpoint(tmp_path, which=6).weights["b.x"] == 6
    for absent in ("5", "latest", "-6", "²"):
        with pytest.raises(UserError, match=f"--checkpoint {absent}: expected newest, best or one .* 3, 6, 7"):
            load_checkpoint(tmp_path, which=absent)


def test_one_of_the_same_iteration_is_replaced(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, 4, _checkpoint(value))
    assert iterations(tmp_path) == [4]
    assert load_checkpoint(tmp_path).weights["b.x"] == 2
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000004"]


@pytest.mark.parametrize("call", ["open", "fsync", "replace", "mkdir"])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_a_failure_while_saving_is_one_sentence_and_leaves_the_last_one(
    tmp_path: Path, call: str, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, _checkpoint(1.0))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(reason, os.strerror(reason))

    with monkeypatch.context() as broken:
        broken.setattr(Path if call in ("open", "mkdir") else os, call, fail)
        with pytest.raises(UserError, match="cannot be written") as caught:
            save_checkpoint(tmp_path, 2, _checkpoint(2.0))
    assert os.strerror(reason) in str(caught.value)
    assert call == "open" or "the checkpoint of iteration 1 is intact" in str(caught.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000001"]
    assert load_checkpoint(tmp_path).weights["b.x"] == 1
    save_checkpoint(tmp_path, 2, _checkpoint(2.0))
    assert load_checkpoint(tmp_path).weights["b.x"] == 2


def test_a_file_larger_than_allowed(tmp_path: Path) -> None:
    """A real refusal of the system in the middle of a write, as a full disk would give it."""
    save_checkpoint(tmp_path, 1, _checkpoint(1.0))
    large = Checkpoint({"a": torch.zeros(100_000)}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(File too large\); the checkpoint of iteration 1"):
            save_checkpoint(tmp_path, 2, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000001"]


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "missing", "foreign"])
def test_damage_is_one_sentence_that_names_an_intact_one(tmp_path: Path, file: str, damage: str) -> None:
    save_checkpoint(tmp_path, 4, _checkpoint(4.0))
    path = save_checkpoint(tmp_path, 5, _checkpoint(5.0)) / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        other = (path.parent.with_name("00000004") / file).read_bytes()
        damaged = {"truncated": content[: len(content) // 2], "empty": b"", "noise": b"\x93" * 300, "foreign": other}
        path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match="the checkpoint is damaged or foreign") as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    assert "the checkpoint of iteration 4 is intact: use --checkpoint 4" in str(caught.value)
    assert load_checkpoint(tmp_path, which=4).weights["b.x"] == 4


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt"])
def test_every_flipped_bit_is_found(tmp_path: Path, file: str) -> None:
    path = save_checkpoint(tmp_path, 5, _checkpoint()) / file
    content = path.read_bytes()
    for position in torch.randint(8 * len(content), (100,)).tolist():
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=f"the content of {file} has changed"):
            load_checkpoint(tmp_path)
    path.write_bytes(content)
    load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "it has no manifest.json"),
        ("[]", "manifest.json cannot be read"),
        ("{}", "manifest.json cannot be read"),
        ('{"format": 1, "iteration": 5, "files": {"state.pt": {}}}', "manifest.json cannot be read"),
        ('{"format": 1, "iteration": 5, "files": {"weights.safetensors": {}, "state.pt": {}}}', "of another"),
        ('{"format": 1, "iteration": 5, "files": {"weights.safetensors": 3, "state.pt": {}}}', "cannot be read"),
        ('{"format": 2, "iteration": 5}', "has format 2"),
    ],
)
def test_unusable_manifests(tmp_path: Path, manifest: str | None, message: str) -> None:
    path = save_checkpoint(tmp_path, 5, _checkpoint()) / "manifest.json"
    path.unlink()
    if manifest is not None:
        path.write_text(manifest)
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path)


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, _checkpoint()) / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(UserError, match="format 7; this version of wgan_fast reads 1; there is no intact checkpoint"):
        load_checkpoint(tmp_path)


def test_a_pickle_that_would_execute_is_refused(tmp_path: Path) -> None:
    """Even where its manifest agrees, as an attacker's would."""
    path = save_checkpoint(tmp_path, 5, _checkpoint()) / "state.pt"
    victim = tmp_path / "executed"
    for writer in (
        lambda: torch.save(Malicious(victim), path),
        lambda: path.write_bytes(pickle.dumps(Malicious(victim), protocol=2)),
    ):
        writer()
        with pytest.raises(UserError, match="damaged or foreign"):
            load_checkpoint(tmp_path)
        manifest = json.loads((path.parent / "manifest.json").read_text())
        content = path.read_bytes()
        manifest["files"]["state.pt"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
        verify(path.parent)
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
        assert iterations(tmp_path) == []
        plain(source, target)

    monkeypatch.setattr(os, "replace", spy)
    save_checkpoint(tmp_path, 7, _checkpoint())
    assert seen == [f".00000007-{os.getpid()}"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".00000003-99"
    left.mkdir(parents=True)
    (left / "weights.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, 7, _checkpoint())
    assert not left.exists()
