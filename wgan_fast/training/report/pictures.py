"""Samples to look at: which ones a picture shows, as a grid of images, a class a row, or as points over real ones."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wgan_fast.training.config import Resolved
from wgan_fast.training.data.sets import Data
from wgan_fast.training.errors import UserError, require
from wgan_fast.training.report.plots import write_image_grid, write_points

CLASSES_SHOWN = 20
SAMPLES_OF_A_CLASS = 10
POINTS_SHOWN = 1000
STEPS_OF_A_PATH = 10


class Source(Protocol):
    """What is asked of a trainer."""

    config: Resolved
    data: Data
    device: torch.device

    def sample(self, count: int, *, labels: Tensor | None = None, seed: int = 0) -> Tensor:
        """``(count, *sample_shape)`` samples, fixed by the weights, the labels and the seed."""
        ...

    def interpolate(self, rows: int, columns: int, *, labels: Tensor | None = None, seed: int = 0) -> Tensor:
        """``(rows, columns, *sample_shape)`` samples of paths between latents."""
        ...


class Drawn(NamedTuple):
    """``samples`` ``(n, *sample_shape)``, or ``(rows, columns, *sample_shape)`` of paths; ``labels``, of a conditional
    generator, one for each sample or path; ``columns`` of the grid that shows them best, where that is known."""

    samples: Tensor
    labels: Tensor | None
    columns: int | None


def draw(source: Source, count: int, *, label: int | None = None, rows: int | None = None, seed: int = 0) -> Drawn:
    """``count`` samples, or ``rows`` of paths between two latents; of one class, or of all of them in turn.

    Raises:
        UserError: a label out of range, or for a generator that takes none.
    """
    labels, classes = None, source.config.num_classes
    if label is not None:
        labels = torch.full((rows or count,), label)
    elif classes:
        labels = torch.arange(rows or count) % classes
    if rows is not None:
        paths = source.interpolate(rows, STEPS_OF_A_PATH, labels=labels, seed=seed)
        return Drawn(paths, labels, STEPS_OF_A_PATH)
    columns = classes if label is None and 0 < classes <= CLASSES_SHOWN else None
    return Drawn(source.sample(count, labels=labels, seed=seed), labels, columns)


def write_drawn(source: Source, drawn: Drawn, path: Path) -> None:
    """Write samples as a picture or, where the path ends in .npz, as the arrays ``samples`` and ``labels``.

    Raises:
        UserError: samples of this shape cannot be drawn.
    """
    shape = source.data.sample_shape
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        arrays = {"samples": drawn.samples} if drawn.labels is None else drawn._asdict()
        arrays.pop("columns", None)
        numpy = require("numpy", "writing an npz")
        numpy.savez_compressed(path, **{name: tensor.cpu().numpy() for name, tensor in arrays.items()})
        return
    samples = drawn.samples.reshape(-1, *shape)
    if len(shape) == 3:
        write_image_grid(path, samples, columns=drawn.columns)
    elif shape == (2,):
        write_points(path, samples, real_points(source, len(samples)))
    else:
        raise UserError(f"samples of shape {shape} cannot be drawn; --out samples.npz writes the numbers")


def write_samples(source: Source, path: Path) -> bool:
    """Draw samples of fixed latents, so that two pictures of one run compare; False for data that cannot be drawn."""
    shape = source.data.sample_shape
    if len(shape) == 3 and source.config.conditional:
        classes = torch.arange(min(source.config.num_classes, CLASSES_SHOWN)).repeat_interleave(SAMPLES_OF_A_CLASS)
        write_image_grid(path, source.sample(len(classes), labels=classes), columns=SAMPLES_OF_A_CLASS)
    elif len(shape) == 3:
        write_image_grid(path, source.sample(100 if shape[1] <= 16 else 64))
    elif shape == (2,):
        write_points(path, source.sample(POINTS_SHOWN), real_points(source, POINTS_SHOWN))
    else:
        return False
    return True


def real_points(source: Source, count: int) -> Tensor:
    """Real points to draw generated ones over, drawn apart from the training's."""
    return source.data.batch(count, torch.Generator(source.device).manual_seed(0))
