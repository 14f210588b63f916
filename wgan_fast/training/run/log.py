"""What a run writes while it trains, except checkpoints: metrics.jsonl, samples/, and TensorBoard's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wgan_fast.training.errors import require, writing
from wgan_fast.training.files import flush, replace_file
from wgan_fast.training.loop.trainer import Record, Trainer
from wgan_fast.training.report.pictures import write_samples


class RunLog:
    """One line of JSON per logged iteration; ``samples/00000500.png`` shows iteration 500, of the same latents in
    every picture of a run. With ``tensorboard``, an event file per part of the run in ``tensorboard/``.
    """

    def __init__(self, folder: Path, *, tensorboard: bool) -> None:
        self._metrics = folder / "metrics.jsonl"
        self._samples = folder / "samples"
        self._events = folder / "tensorboard" if tensorboard else None
        self._writer: Any = None

    def resume_after(self, iteration: int) -> None:
        """Remove the lines of later iterations, which will be run again; the others are kept byte for byte."""
        kept = [line for line, record in _lines(self._metrics) if record["iteration"] <= iteration]
        with writing(self._metrics):
            replace_file(self._metrics, "".join(f"{line}\n" for line in kept).encode())
        for picture in self._samples.glob("*.png"):
            if picture.stem.isdecimal() and int(picture.stem) > iteration:
                picture.unlink()
        if self._events is not None:
            require("tensorboard", "--tensorboard")
            if self._writer is not None:
                self._writer.close()
            # A new file makes TensorBoard hide later iterations of earlier files.
            writer = require("torch.utils.tensorboard", "--tensorboard").SummaryWriter
            self._writer = writer(str(self._events), purge_step=iteration + 1)

    def append(self, record: Record) -> None:
        """The figures of one iteration."""
        with writing(self._metrics), self._metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._writer is not None:
            for name, value in record.items():
                if name != "iteration":
                    self._writer.add_scalar(name, value, record["iteration"])
            self._writer.flush()

    def draw(self, trainer: Trainer) -> None:
        """A picture of samples, where the data can be drawn; it does not use the training's random numbers."""
        path = self._samples / f"{trainer.iteration:08d}.png"
        with writing(path):
            self._samples.mkdir(parents=True, exist_ok=True)
            drawn = write_samples(trainer, path)
        if drawn and self._writer is not None:
            numpy = require("numpy", "--tensorboard")
            with require("PIL.Image", "--tensorboard").open(path) as image:
                pixels = numpy.asarray(image.convert("RGB"))
            self._writer.add_image("samples", pixels, trainer.iteration, dataformats="HWC")
            self._writer.flush()

    def flush(self) -> None:
        """Wait until the disk has every line, which must precede the checkpoint that follows them."""
        if self._metrics.is_file():
            with writing(self._metrics):
                flush(self._metrics)


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl; empty without a file. Lines that a crash has cut or damaged are left out."""
    return [record for _, record in _lines(path)]


def _lines(path: Path) -> list[tuple[str, Record]]:
    found: list[tuple[str, Record]] = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("iteration"), int):
            found.append((line, record))
    return found
