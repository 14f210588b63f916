"""The run folder: made once, resumed with its own options, reopened, refused when foreign."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wgan_fast.training import Config, UserError
from wgan_fast.training.report.evaluation import Evaluation, Figure
from wgan_fast.training.run.folder import (
    build_trainer,
    open_run,
    read_config,
    resume_run,
    start_run,
    write_evaluation,
    write_pictures,
)

SMALL: dict[str, Any] = {"width": 16, "batch_size": 8, "n_critic": 1, "iterations": 3, "log_every": 1}


def test_a_run_is_written_reopened_and_drawn(tmp_path: Path) -> None:
    trainer = start_run(tmp_path, Config(data="digits", **SMALL))
    trainer.train(tmp_path)
    again = open_run(tmp_path)
    assert again.config == trainer.config == read_config(tmp_path)
    assert again.iteration == 3
    assert torch.equal(again.sample(4), trainer.sample(4))
    assert [p.name for p in write_pictures(again, tmp_path)] == ["samples.png", "curves.png"]
    assert (tmp_path / "samples.png").stat().st_size > 1000
    assert "wgan_fast" in json.loads((tmp_path / "config.json").read_text())


def test_points_also_get_the_critic(tmp_path: Path) -> None:
    trainer = start_run(tmp_path, Config(data="swissroll", **SMALL))
    trainer.train(tmp_path)
    files = write_pictures(trainer, tmp_path)
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


def test_a_folder_with_a_run_is_not_written_over_by_mistake(tmp_path: Path) -> None:
    config = Config(data="digits", **SMALL)
    start_run(tmp_path, config).train(tmp_path)
    mine = tmp_path / "notes.txt"
    mine.write_text("keep")
    with pytest.raises(UserError, match="holds a run already; --resume continues it, --overwrite replaces it"):
        start_run(tmp_path, config)
    with pytest.raises(UserError, match="is unknown"):
        start_run(tmp_path, dataclasses.replace(config, data="nonsense"), overwrite=True)
    assert open_run(tmp_path).iteration == 3
    start_run(tmp_path, config, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "notes.txt"]


def test_a_run_resumes_longer_but_not_otherwise(tmp_path: Path) -> None:
    config = Config(data="digits", **SMALL)
    start_run(tmp_path, config).train(tmp_path)
    saved = read_config(tmp_path)
    with pytest.raises(UserError, match="--batch-size 9 cannot change in a resumed run, which has 8"):
        resume_run(tmp_path, dataclasses.replace(saved, batch_size=9))
    trainer = resume_run(tmp_path, dataclasses.replace(saved, iterations=5))
    assert trainer.iteration == 3
    assert trainer.train(tmp_path).iterations == 2
    assert read_config(tmp_path).iterations == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run folder: there is no config.json in it"),
        ("{", "is damaged or foreign"),
        ("[1, 2]", "is damaged or foreign"),
        ('{"betas": [0, 0.9], "unheard_of": 1}', "is damaged or foreign .*unheard_of"),
    ],
)
def test_foreign_folders_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_run(tmp_path)


def test_an_unusable_place_or_device_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        start_run(tmp_path / "file" / "run", Config(data="digits", **SMALL))
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(UserError, match=f"--device {device} cannot be used"):
            build_trainer(Config(data="digits", device=device, **SMALL))


def test_evaluation_is_written_with_its_notes(tmp_path: Path) -> None:
    path = write_evaluation(Evaluation([Figure("distance", 2.0, 1.0)], ["a note"]), tmp_path)
    assert json.loads(path.read_text()) == {
        "figures": {"distance": {"generated": 2.0, "held_out": 1.0}},
        "notes": ["a note"],
    }
