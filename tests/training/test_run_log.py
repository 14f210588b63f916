"""Pictures during the training, and TensorBoard: complete, without doubles, and without a trace in the weights."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wgan_fast.training import Config, Run, Trainer, UserError, build_models
from wgan_fast.training.data.sets import split
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.run.log import read_metrics

SMALL: dict[str, Any] = {"width": 16, "batch_size": 8, "n_critic": 1, "critic_burst": False, "log_every": 2}


def _config(**options: Any) -> Config:
    return Config(**{"data": "digits", "iterations": 8, **SMALL, **options})


def _events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = _events(folder)
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def _images(folder: Path) -> list[int]:
    return [event.step for event in _events(folder).Images("samples")]


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.0}, {"conditional": True}, {"data": "8gaussians"}])
def test_pictures_do_not_change_the_training(tmp_path: Path, options: dict[str, Any]) -> None:
    trainers = [build_trainer(_config(sample_every=n, tensorboard=n > 0, **options)) for n in (0, 3)]
    for trainer in trainers:
        torch.manual_seed(3)
        Run(trainer, tmp_path / str(trainer.config.sample_every)).train()
    for part in trainers[0].networks():
        states = [trainer.networks()[part].state_dict().values() for trainer in trainers]
        assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("0", "3")]
    assert metrics[0] == metrics[1]
    assert not (tmp_path / "0" / "samples").exists()
    names = sorted(p.name for p in (tmp_path / "3" / "samples").iterdir())
    assert names == ["00000003.png", "00000006.png"]


def test_damaged_lines_and_foreign_pictures_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 2}\n{"iter\n' + "9" * 5000 + "\n" + "[" * 100_000 + "\n")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "\u00b2.png").touch()  # a digit by str.isdigit, not to int()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"iteration": 2}]
    Run(build_trainer(_config(iterations=2)), tmp_path).train()
    assert [record["iteration"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [2]
    assert (tmp_path / "samples" / "\u00b2.png").exists()


def test_pictures_are_of_the_same_latents(tmp_path: Path) -> None:
    """A generator that is not trained draws the same picture every time."""
    from PIL import Image

    trainer = build_trainer(_config(sample_every=4, learning_rate=1e-30))
    Run(trainer, tmp_path).train()
    first, second = (np.asarray(Image.open(tmp_path / "samples" / f"0000000{n}.png")) for n in (4, 8))
    assert np.array_equal(first, second)
    assert first.std() > 10


def test_data_that_cannot_be_drawn_is_left_out(tmp_path: Path) -> None:
    data = split("rows", torch.randn(50, 5))
    config = _config(sample_shape=(5,), latent_dim=3, sample_every=2)
    Run(Trainer(*build_models("mlp", (5,), 3, 8), data, config), tmp_path).train()
    assert list((tmp_path / "samples").iterdir()) == []


def test_tensorboard_holds_every_record_once_after_a_resume(tmp_path: Path) -> None:
    config = _config(tensorboard=True, sample_every=2, checkpoint_every=3)
    first = build_trainer(config)
    Run(first, tmp_path).train(lambda record: first.stop() if record["iteration"] == 6 else None)
    assert first.iteration == 6
    # As if the process had died between the last records and their checkpoint:
    shutil.rmtree(tmp_path / "checkpoints" / "00000006")
    second = build_trainer(config)
    Run(second, tmp_path).load()
    assert second.iteration == 3
    Run(second, tmp_path).train()
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["iteration"] for record in records] == [2, 4, 6, 8]
    scalars = _scalars(tmp_path / "tensorboard")
    assert set(scalars) == set(records[0]) - {"iteration"}
    for name, series in scalars.items():
        assert series == [(r["iteration"], pytest.approx(r[name], rel=1e-6)) for r in records]
    assert _images(tmp_path / "tensorboard") == [2, 4, 6, 8]


def test_pictures_of_iterations_that_are_run_again_go_first(tmp_path: Path) -> None:
    trainer = build_trainer(_config(iterations=2, sample_every=1))
    (tmp_path / "samples").mkdir()
    for name in ("00000009.png", "notes.png"):
        (tmp_path / "samples" / name).write_bytes(b"")
    Run(trainer, tmp_path).train()
    names = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert names == ["00000001.png", "00000002.png", "notes.png"]


def test_overwriting_removes_pictures_and_event_files(tmp_path: Path) -> None:
    config = _config(tensorboard=True, sample_every=4)
    Run.start(tmp_path, config).train()
    Run.start(tmp_path, _config(sample_every=0), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text())["tensorboard"] is False


def test_an_absent_tensorboard_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    message = r'--tensorboard needs tensorboard, which cannot be imported: pip install "wgan-fast\[tensorboard\]"'
    with pytest.raises(UserError, match=message):
        Run.start(tmp_path / "run", _config(tensorboard=True))
    assert not (tmp_path / "run").exists()
    trainer = Trainer(
        *build_models("mlp", (5,), 3, 8), split("rows", torch.randn(50, 5)), _config(sample_shape=(5,), latent_dim=3)
    )
    assert Run(trainer, tmp_path / "without").train().iterations == 8


def test_bad_values_are_named() -> None:
    with pytest.raises(UserError, match="--sample-every must be at least 0, got -1"):
        build_trainer(_config(sample_every=-1))
