"""The run folder: made, resumed, reopened, and filled with pictures and figures."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import wgan_fast
from wgan_fast.training.config import Config, Resolved, resolve, spelled
from wgan_fast.training.data.sets import check_classes, class_count, load_data
from wgan_fast.training.errors import UserError
from wgan_fast.training.loop.distributed import Processes
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.models.pairs import build_models
from wgan_fast.training.report.evaluation import Evaluation, evaluate
from wgan_fast.training.report.pictures import POINTS_SHOWN, real_points, write_samples
from wgan_fast.training.report.plots import write_critic, write_curves
from wgan_fast.training.run.checkpoint import iterations, remove_later
from wgan_fast.training.run.durable import replace_file
from wgan_fast.training.run.log import read_metrics
from wgan_fast.training.run.tensorboard_log import require_tensorboard

CHANGEABLE = (
    "iterations",
    "log_every",
    "checkpoint_every",
    "sample_every",
    "tensorboard",
    "keep_checkpoints",
    "on_nonfinite",
    "device",
    "graph",
    "data_root",
)
"""The options that a resumed run may be given anew; the others are what the run is."""

CONTENTS = (
    "config.json",
    "metrics.jsonl",
    "samples.png",
    "curves.png",
    "critic.png",
    "evaluation.json",
    "samples",
    "tensorboard",
    "checkpoints",
)


def build_trainer(config: Config, processes: Processes | None = None) -> Trainer:
    """Data, freshly seeded networks and trainer of a config.

    Raises:
        UserError: unusable data, device or options.
    """
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {config.device} cannot be used ({reason})") from error
    if config.tensorboard:
        require_tensorboard()
    root = None if config.data_root is None else Path(config.data_root)
    data = load_data(
        config.data, image_size=config.image_size, data_root=root, device=device, conditional=config.conditional
    )
    resolved = resolve(config, data.sample_shape, class_count(data))
    if resolved.conditional:
        check_classes(data)
    if resolved.conditional and resolved.constraint in ("spectral", "lipschitz"):
        raise UserError(
            f"--conditional contradicts --constraint {resolved.constraint}: it does not bound the projection on the "
            "vector of the class that the built-in critics score with"
        )
    torch.manual_seed(resolved.seed)
    networks = build_models(
        resolved.architecture,
        data.sample_shape,
        resolved.latent_dim,
        resolved.width,
        resolved.critic_norm,
        resolved.num_classes,
    )
    return Trainer(*networks, data, resolved, processes=processes)


def start_run(out: Path, config: Config, *, overwrite: bool = False, processes: Processes | None = None) -> Trainer:
    """A new run in the folder ``out``, which is made; its config.json is written.

    Raises:
        UserError: the folder holds a run already and ``overwrite`` is not set, or it cannot be written.
    """
    processes = processes or Processes()
    present = [out / name for name in CONTENTS if (out / name).exists()] if processes.first else []

    def refuse_present() -> None:
        if present and not overwrite:
            raise UserError(f"--out {out} holds a run already; --resume continues it, --overwrite replaces it")

    def replace_present() -> None:
        for path in present:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        _write_config(out, trainer.config)

    processes.by_first(refuse_present)
    trainer = build_trainer(config, processes)
    processes.by_first(replace_present)
    return trainer


def resume_run(
    out: Path, config: Config, checkpoint: str | int = "newest", *, processes: Processes | None = None
) -> Trainer:
    """The run in ``out``, at one of its checkpoints, with the ``CHANGEABLE`` options of ``config``.

    Args:
        checkpoint: "newest", "best" or an iteration; later checkpoints are removed.

    Raises:
        UserError: there is no run, its checkpoint is damaged, or ``config`` asks for another run.
    """
    saved = read_config(out)
    for field in dataclasses.fields(Config):
        wanted, had = getattr(config, field.name), getattr(saved, field.name)
        if wanted != had and field.name not in CHANGEABLE:
            raise UserError(f"{spelled(field.name, wanted)} cannot change in a resumed run, which has {had}")
    if not iterations(out):
        raise UserError(f"{out}: the run stopped before its first checkpoint; --overwrite starts it again")
    processes = processes or Processes()
    trainer = build_trainer(config, processes)
    trainer.load(out, checkpoint)

    def continue_from_there() -> None:
        try:
            remove_later(out, trainer.iteration)
        except OSError as error:
            raise UserError(f"--out {out} cannot be written ({error.strerror})") from error
        _write_config(out, trainer.config)

    processes.by_first(continue_from_there)
    return trainer


def open_run(run: Path, device: str | None = None, checkpoint: str | int = "newest") -> Trainer:
    """A finished or stopped run at one of its checkpoints, to sample from or to evaluate, in fp32 throughout."""
    config = read_config(run)
    if device is not None:  # which need not be able to train as that one was
        config = dataclasses.replace(config, device=device, precision="fp32", graph="auto")
    trainer = build_trainer(config)
    trainer.load(run, checkpoint)
    return trainer


def read_config(run: Path) -> Resolved:
    """The config.json of a run folder.

    Raises:
        UserError: there is none, or it is not one of ours.
    """
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"{run} is not a run folder: there is no config.json in it")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        content.pop("wgan_fast", None)
        return Resolved(**{**content, "betas": tuple(content["betas"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged or foreign ({error})") from error


def write_pictures(trainer: Trainer, out: Path) -> list[Path]:
    """Draw samples.png, curves.png and, for 2-D data, critic.png; returns the files."""
    files = [out / "samples.png"] if write_samples(trainer, out / "samples.png") else []
    files.append(out / "curves.png")
    write_curves(files[-1], read_metrics(out / "metrics.jsonl"))
    if trainer.data.sample_shape == (2,):
        files.append(out / "critic.png")
        generated = trainer.sample(POINTS_SHOWN)
        write_critic(files[-1], trainer.critic, generated, real_points(trainer, POINTS_SHOWN))
    return files


def evaluate_run(trainer: Trainer) -> Evaluation:
    """The figures of a trained generator beside those of held-out real data."""

    def sample_classes(labels: Tensor) -> Tensor:
        return trainer.sample(len(labels), labels=labels)

    return evaluate(trainer.sample, trainer.data, sample_classes=sample_classes if trainer.config.conditional else None)


def write_evaluation(evaluation: Evaluation, out: Path) -> Path:
    """evaluation.json: every figure of generated and of held-out samples, and the notes."""
    path = out / "evaluation.json"
    figures = {f.name: {"generated": f.generated, "held_out": f.held_out} for f in evaluation.figures}
    path.write_text(json.dumps({"figures": figures, "notes": evaluation.notes}, indent=2) + "\n")
    return path


def _write_config(out: Path, config: Resolved) -> None:
    content = {"wgan_fast": wgan_fast.__version__, **dataclasses.asdict(config)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / "config.json", json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from error
