"""The run folder: made once, resumed with its own options, reopened, refused when foreign."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wgan_fast.training import Config, UserError
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.run.checkpoint import locked
from wgan_fast.training.run.folder import Run, read_config

SMALL: dict[str, Any] = {"width": 16, "batch_size": 8, "n_critic": 1, "iterations": 3, "log_every": 1}


def test_a_run_is_written_reopened_and_drawn(tmp_path: Path) -> None:
    run = Run.start(tmp_path, Config(data="digits", **SMALL))
    run.train()
    again = Run.open(tmp_path)
    assert again.trainer.config == run.trainer.config == read_config(tmp_path)
    assert Run.open(str(tmp_path)).folder == tmp_path
    assert again.trainer.iteration == 3
    assert torch.equal(again.trainer.sample(4), run.trainer.sample(4))
    assert [p.name for p in again.write_pictures()] == ["samples.png", "curves.png"]
    assert (tmp_path / "samples.png").stat().st_size > 1000
    assert "wgan_fast" in json.loads((tmp_path / "config.json").read_text())


def test_points_also_get_the_critic(tmp_path: Path) -> None:
    run = Run.start(tmp_path, Config(data="swissroll", **SMALL))
    run.train()
    files = run.write_pictures()
    assert [p.name for p in files] == ["samples.png", "curves.png", "critic.png"]
    assert all(p.stat().st_size > 1000 for p in files)


def test_networks_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    a = build_trainer(Config(data="digits", seed=3, **SMALL))
    torch.manual_seed(2)
    b = build_trainer(Config(data="digits", seed=3, **SMALL))
    c = build_trainer(Config(data="digits", seed=4, **SMALL))
    first = [next(t.critic.parameters()) for t in (a, b, c)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    run = Run.start(tmp_path, Config(data="digits", **SMALL))
    run.save()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with locked(tmp_path):
        for train in (
            run.train,
            lambda: Run.resume(tmp_path, dataclasses.replace(run.trainer.config, iterations=9)),
            lambda: Run.start(tmp_path, run.trainer.config, overwrite=True),
        ):
            with pytest.raises(UserError, match="another process is training in this folder"):
                train()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert run.train().iterations == 3


def test_overwriting_removes_a_link_to_checkpoints_and_not_what_it_points_to(tmp_path: Path) -> None:
    disk, folder = tmp_path / "disk", tmp_path / "run"
    for path in (disk, folder):
        path.mkdir()
    (disk / "mine").write_text("keep")
    (folder / "checkpoints").symlink_to(disk)
    Run.start(folder, Config(data="digits", **SMALL), overwrite=True).train()
    assert not (folder / "checkpoints").is_symlink()
    assert [p.name for p in disk.iterdir()] == ["mine"]


def test_a_folder_with_a_run_is_not_written_over_by_mistake(tmp_path: Path) -> None:
    config = Config(data="digits", **SMALL)
    Run.start(tmp_path, config).train()
    mine = tmp_path / "notes.txt"
    mine.write_text("keep")
    with pytest.raises(UserError, match="holds a run already; --resume continues it, --overwrite replaces it"):
        Run.start(tmp_path, config)
    with pytest.raises(UserError, match="is unknown"):
        Run.start(tmp_path, dataclasses.replace(config, data="nonsense"), overwrite=True)
    assert Run.open(tmp_path).trainer.iteration == 3
    Run.start(tmp_path, config, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "notes.txt"]


def test_a_run_resumes_longer_but_not_otherwise(tmp_path: Path) -> None:
    config = Config(data="digits", **SMALL)
    Run.start(tmp_path, config).train()
    saved = read_config(tmp_path)
    with pytest.raises(UserError, match="--batch-size 9 cannot change in a resumed run, which has 8"):
        Run.resume(tmp_path, dataclasses.replace(saved, batch_size=9))
    run = Run.resume(tmp_path, dataclasses.replace(saved, iterations=5))
    assert run.trainer.iteration == 3
    assert run.train().iterations == 2
    assert read_config(tmp_path).iterations == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run folder: there is no config.json in it"),
        ("{", "is damaged or foreign"),
        ("[1, 2]", "is damaged or foreign"),
        ("[" * 100_000, "is damaged or foreign"),
        ('{"log_every": 2.5}', "is damaged or foreign .*--log-every must be an integer, got 2.5"),
        ('{"betas": [0, 0.9], "unheard_of": 1}', "is damaged or foreign .*unheard_of"),
        ('{"lr_decay": "no"}', "is damaged or foreign .*--lr-decay must be true or false, got 'no'"),
    ],
)
def test_foreign_folders_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Run.open(tmp_path)


@pytest.mark.needs("sklearn")
def test_an_unusable_place_or_device_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Run.start(tmp_path / "file" / "run", Config(data="digits", **SMALL))
    for device in ("nonsense", "cuda:99", "meta", "cpu:1"):
        with pytest.raises(UserError, match=f"--device {device} cannot be used"):
            build_trainer(Config(data="digits", device=device, **SMALL))


def test_evaluation_is_written_with_its_notes(tmp_path: Path) -> None:
    run = Run.start(tmp_path, Config(data="swissroll", **SMALL))
    evaluation, path = run.evaluate()
    (distance,) = evaluation.figures
    assert json.loads(path.read_text()) == {
        "figures": {distance.name: {"generated": distance.generated, "held_out": distance.held_out}},
        "notes": evaluation.notes,
    }
