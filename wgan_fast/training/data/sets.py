"""Real samples: one tensor in memory (or an endless stream), sampled with a torch.Generator."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from wgan_fast.training.data import images, points
from wgan_fast.training.errors import UserError, did_you_mean

SPLIT_SEED = 20170130
"""Fixes which samples are held out, independently of a run's seed, so that runs can be compared."""

NAMES = ("digits", "photos", *points.STREAMS, "mnist", "cifar10", "folder:PATH", "npz:PATH")


class Data(Protocol):
    """What the trainer and the evaluation need to know of a data set."""

    name: str
    sample_shape: tuple[int, ...]

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """``(size, *sample_shape)`` float32 training samples, drawn with replacement; images in [-1, 1]."""
        ...

    def held_out(self, size: int, generator: torch.Generator) -> Tensor:
        """At most ``size`` real samples that training never sees."""
        ...


class Batch(NamedTuple):
    """``samples`` ``(B, *sample_shape)`` float32 and, if requested, their classes: ``labels`` ``(B,)`` int64."""

    samples: Tensor
    labels: Tensor | None


@runtime_checkable
class LabelledData(Data, Protocol):
    """Data that a class-conditional pair can be trained on."""

    num_classes: int

    def labelled_batch(self, size: int, generator: torch.Generator) -> Batch:
        """The samples that `batch` would draw, with their classes."""
        ...


class TensorData:
    """A finite data set in memory, with a part held out; `split` makes one from a single tensor.

    Args:
        name: what to call it in messages and figures.
        train_samples: ``(n, *sample_shape)``; float32 as it is, or uint8, which every batch maps from 0..255
            to [-1, 1].
        held_out_samples: real samples of the same kind that training never sees.
        train_labels, held_out_labels: int64 class of each sample, or None for both.
        device: where the samples live and batches are made.

    Attributes:
        num_classes: number of classes, 0 for data without labels.
        device: that of the samples.
    """

    def __init__(
        self,
        name: str,
        train_samples: Tensor,
        held_out_samples: Tensor,
        train_labels: Tensor | None = None,
        held_out_labels: Tensor | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.sample_shape = tuple(train_samples.shape[1:])
        self.train_samples = train_samples.to(device)
        self.device = self.train_samples.device
        self.held_out_samples = held_out_samples.to(device)
        self.train_labels = None if train_labels is None else train_labels.to(device)
        self.held_out_labels = None if held_out_labels is None else held_out_labels.to(device)
        labels = [part for part in (train_labels, held_out_labels) if part is not None]
        self.num_classes = int(torch.cat(labels).max()) + 1 if labels else 0

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """``(size, *sample_shape)`` float32 training samples drawn with replacement."""
        return as_float(self.train_samples.index_select(0, self._draw(size, generator)))

    def labelled_batch(self, size: int, generator: torch.Generator) -> Batch:
        """What `batch` would draw, and the classes.

        Raises:
            UserError: the data has no labels.
        """
        if self.train_labels is None:
            raise UserError(f"{self.name}: the data has no labels")
        index = self._draw(size, generator)
        return Batch(as_float(self.train_samples.index_select(0, index)), self.train_labels.index_select(0, index))

    def _draw(self, size: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(self.train_samples), (size,), generator=generator, device=generator.device)
        return index.to(self.device)

    def held_out(self, size: int, generator: torch.Generator) -> Tensor:
        """At most ``size`` distinct held-out samples, float32."""
        return _distinct(self.held_out_samples, size, generator)

    def training(self, size: int, generator: torch.Generator) -> Tensor:
        """At most ``size`` distinct training samples, float32: the reference of the Fréchet distance."""
        return _distinct(self.train_samples, size, generator)


def _distinct(samples: Tensor, size: int, generator: torch.Generator) -> Tensor:
    index = torch.randperm(len(samples), generator=generator, device=generator.device)[:size]
    return as_float(samples.index_select(0, index.to(samples.device)))


def draw_batch(data: Data, size: int, generator: torch.Generator, *, labelled: bool) -> Batch:
    """A batch where the data is; ``labelled`` returns the classes as well, and draws the same samples."""
    if labelled:
        return cast(LabelledData, data).labelled_batch(size, generator)
    return Batch(data.batch(size, generator), None)


def check_classes(data: Data) -> None:
    """Refuse data with a class of which there is no training sample."""
    if isinstance(data, TensorData) and data.train_labels is not None:
        counts = data.train_labels.bincount(minlength=data.num_classes)
        if not counts.all():
            raise UserError(
                f"--conditional: {data.name} has no training sample of class {int((counts == 0).nonzero()[0])}; "
                f"classes must be numbered from 0 without gaps, and the largest is {data.num_classes - 1}"
            )


def as_float(samples: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]; float32 is returned as it is."""
    return samples.float().div_(127.5).sub_(1) if samples.dtype == torch.uint8 else samples


def split(
    name: str,
    samples: Tensor,
    labels: Tensor | None = None,
    *,
    held_out: int | None = None,
    device: torch.device | str = "cpu",
) -> TensorData:
    """Hold out ``held_out`` samples (by default a fifth, at most 10 000), chosen by a fixed permutation.

    Raises:
        UserError: fewer than two samples, samples that are neither uint8 nor floating-point, labels that do not match
            them, or ``held_out`` out of range.
    """
    if samples.dim() < 2 or not (samples.is_floating_point() or samples.dtype == torch.uint8):
        raise UserError(
            f"{name}: samples must be uint8 or floating-point, of shape (n, ...) with at least 2 dimensions, "
            f"found {samples.dtype} of shape {tuple(samples.shape)}"
        )
    count = len(samples)
    if count < 2:
        raise UserError(f"{name}: training and evaluation need at least 2 samples, found {count}")
    if labels is not None and labels.shape != (count,):
        raise UserError(f"{name}: labels of shape ({count},) are expected, found {tuple(labels.shape)}")
    if labels is not None and (labels.is_floating_point() or labels.dtype == torch.bool or labels.min() < 0):
        raise UserError(f"{name}: labels must be integers of at least 0, found {labels.dtype} from {labels.min():g}")
    kept_back = min(max(count // 5, 1), 10_000) if held_out is None else held_out
    if not 1 <= kept_back < count:
        raise UserError(f"{name}: held_out must be between 1 and {count - 1}, got {kept_back}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    test, train = order[:kept_back], order[kept_back:]
    samples = samples if samples.dtype == torch.uint8 else samples.to(torch.get_default_dtype())
    tensors = [samples] if labels is None else [samples, labels.long()]
    parts = [tensor[index] for tensor in tensors for index in (train, test)]
    return TensorData(name, *parts, device=device)


def load_data(
    name: str,
    *,
    image_size: int = 32,
    data_root: Path | str | None = None,
    device: torch.device | str = "cpu",
    conditional: bool = False,
) -> Data:
    """The data set of that name.

    Args:
        name: one of ``NAMES``; ``folder:PATH`` reads every image below PATH, ``npz:PATH`` a NumPy archive.
        image_size: side in pixels of ``photos`` and ``folder:`` images (32 or 64 suit the built-in models).
        data_root: where torchvision keeps ``mnist`` and ``cifar10``; by default the user's cache folder.
        device: where the samples live.
        conditional: the sub-folders of ``folder:PATH`` are classes.

    Raises:
        UserError: an unknown name, or a file or folder that cannot be used; the message names it.
    """
    check_name(name)
    kind, _, argument = name.partition(":")
    if name in points.STREAMS:
        return points.STREAMS[name]()
    if kind in ("folder", "npz") and not argument:
        raise UserError(f"--data {kind}: needs a path after the colon, as in {kind}:some/path")
    if name == "digits":
        return split(name, *images.digits(), held_out=449, device=device)
    if name == "photos":
        return TensorData(name, *images.photo_crops(image_size), device=device)
    if kind == "folder":
        samples, labels = images.folder(Path(argument), image_size)
        return split(name, samples, labels if conditional else None, device=device)
    if kind == "npz":
        return split(name, *images.npz(Path(argument)), device=device)
    return TensorData(name, *images.torchvision_data(name, data_root), device=device)


def check_name(name: str) -> None:
    """Refuse a name that `load_data` does not know."""
    if name not in NAMES and name.partition(":")[0] not in ("folder", "npz"):
        advice = did_you_mean(name, NAMES) or f"; expected one of {', '.join(NAMES)}"
        raise UserError(f"--data {name} is unknown{advice}")


def sample_shape_of(name: str, image_size: int = 32) -> tuple[int, ...]:
    """The shape of one sample of `load_data`'s data sets, without loading them; ``(2,)`` for unknown names."""
    kind, _, argument = name.partition(":")
    if kind == "npz" and argument:
        return images.npz_sample_shape(Path(argument))
    if kind in ("photos", "folder"):
        return (3, image_size, image_size)
    return {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}.get(name, (2,))
