"""TensorBoard's event files: every quantity of metrics.jsonl, and the pictures of samples."""

from __future__ import annotations

from pathlib import Path

from wgan_fast.training.errors import require
from wgan_fast.training.metrics_log import Record

PURPOSE = "--tensorboard"


def require_tensorboard() -> None:
    """Raise the sentence that says how to install TensorBoard where it is absent."""
    require("tensorboard", PURPOSE)


class TensorBoardLog:
    """Writes into ``folder``; what an earlier part of the run logged after ``iteration`` is hidden by TensorBoard.

    Args:
        folder: where the event files go; a resumed run adds another file to it.
        iteration: iterations done: the first record will be of a later one.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        require_tensorboard()
        writer = require("torch.utils.tensorboard", PURPOSE).SummaryWriter
        self._writer = writer(str(folder), purge_step=iteration + 1)

    def append(self, record: Record) -> None:
        """Every number of a record, at its iteration."""
        for name, value in record.items():
            if name != "iteration" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, record["iteration"])

    def show(self, picture: Path, iteration: int) -> None:
        """A picture of samples, as it was written to a file."""
        numpy = require("numpy", PURPOSE)
        with require("PIL.Image", PURPOSE).open(picture) as image:
            pixels = numpy.asarray(image.convert("RGB"))
        self._writer.add_image("samples", pixels, iteration, dataformats="HWC")

    def close(self) -> None:
        """Write out what waits in memory."""
        self._writer.close()
