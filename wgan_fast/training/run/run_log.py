"""All that a training writes while it runs, checkpoints apart: metrics.jsonl, samples/, and TensorBoard's files."""

from __future__ import annotations

from pathlib import Path

from wgan_fast.training.errors import UserError
from wgan_fast.training.report.pictures import Source, write_samples
from wgan_fast.training.run.log import MetricsLog, Record
from wgan_fast.training.run.tensorboard_log import TensorBoardLog


class RunLog:
    """``samples/00000500.png`` shows iteration 500: the same latents in every picture of a run.

    Args:
        out: the run folder.
        tensorboard: whether to write event files into ``out/tensorboard`` as well.

    Raises:
        UserError: TensorBoard is wanted and not installed.
    """

    def __init__(self, out: Path, *, tensorboard: bool) -> None:
        self._metrics = MetricsLog(out / "metrics.jsonl")
        self._samples = out / "samples"
        self._tensorboard = TensorBoardLog(out / "tensorboard") if tensorboard else None

    def resume_after(self, iteration: int) -> None:
        """Forget everything about later iterations, which will be run again."""
        self._metrics.resume_after(iteration)
        for picture in self._samples.glob("*.png"):
            if picture.stem.isdigit() and int(picture.stem) > iteration:
                picture.unlink()
        if self._tensorboard is not None:
            self._tensorboard.resume_after(iteration)

    def append(self, record: Record) -> None:
        """The figures of one iteration."""
        self._metrics.append(record)
        if self._tensorboard is not None:
            self._tensorboard.append(record)

    def draw(self, source: Source, iteration: int) -> None:
        """A picture of samples, where the data can be drawn; drawing takes no part in the training's random numbers.

        Raises:
            UserError: it cannot be written.
        """
        path = self._samples / f"{iteration:08d}.png"
        try:
            self._samples.mkdir(parents=True, exist_ok=True)
            drawn = write_samples(source, path)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from error
        if drawn and self._tensorboard is not None:
            self._tensorboard.show(path, iteration)

    def flush(self) -> None:
        """Wait until the disk has every line, as it must before it has a checkpoint that follows them."""
        self._metrics.flush()
