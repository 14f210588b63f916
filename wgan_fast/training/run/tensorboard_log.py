"""TensorBoard's event files: every quantity of metrics.jsonl, and the pictures of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wgan_fast.training.errors import require
from wgan_fast.training.run.log import Record

PURPOSE = "--tensorboard"


def require_tensorboard() -> None:
    """Raise the sentence that says how to install TensorBoard where it is absent."""
    require("tensorboard", PURPOSE)


class TensorBoardLog:
    """Writes into ``folder``, a file for each part of the run; what is appended is on its way to the disk at once.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        self._folder = folder
        self._writer: Any = None

    def resume_after(self, iteration: int) -> None:
        """Start a file before which TensorBoard hides what earlier ones say of later iterations."""
        if self._writer is not None:
            self._writer.close()
        writer = require("torch.utils.tensorboard", PURPOSE).SummaryWriter
        self._writer = writer(str(self._folder), purge_step=iteration + 1)

    def append(self, record: Record) -> None:
        """Every quantity of a record, at its iteration."""
        for name, value in record.items():
            if name != "iteration":
                self._writer.add_scalar(name, value, record["iteration"])
        self._writer.flush()

    def show(self, picture: Path, iteration: int) -> None:
        """A picture of samples that was written to a file."""
        numpy = require("numpy", PURPOSE)
        with require("PIL.Image", PURPOSE).open(picture) as image:
            pixels = numpy.asarray(image.convert("RGB"))
        self._writer.add_image("samples", pixels, iteration, dataformats="HWC")
        self._writer.flush()
