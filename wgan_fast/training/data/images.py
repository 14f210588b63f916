"""Readers of image data, into tensors in memory: channels first, uint8 0..255 or float32 in [-1, 1]."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wgan_fast.training.errors import UserError, require

CROPS = 16_384
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/wgan-fast`` or ``~/.cache/wgan-fast``: downloads and trained feature networks."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wgan-fast"


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits, ``(1797, 1, 8, 8)`` float32 in [-1, 1], and their classes."""
    bunch = require("sklearn.datasets", "--data digits").load_digits()
    return torch.from_numpy(bunch.images).float().div_(8).sub_(1).unsqueeze(1), torch.from_numpy(bunch.target).long()


def photo_crops(size: int) -> tuple[Tensor, Tensor]:
    """Random square crops of scikit-learn's two sample photographs (427 x 640, a temple and a flower).

    The right-hand fifth of each photograph is held out, so that held-out crops share no pixel with the
    others.

    Returns:
        ``(16384, 3, size, size)`` and ``(2048, 3, size, size)`` uint8 crops, the same in every run.
    """
    datasets = require("sklearn.datasets", "--data photos")
    require("PIL.Image", "--data photos")
    photographs = [torch.from_numpy(p.copy()).permute(2, 0, 1) for p in datasets.load_sample_images().images]
    border = int(photographs[0].shape[2] * 0.8)
    largest = photographs[0].shape[2] - border
    if not 8 <= size <= largest:
        raise UserError(f"--image-size must be between 8 and {largest} for --data photos, got {size}")
    generator = torch.Generator().manual_seed(0)
    train = _random_crops([p[:, :, :border] for p in photographs], size, CROPS, generator)
    held_out = _random_crops([p[:, :, border:] for p in photographs], size, CROPS // 8, generator)
    return train, held_out


def _random_crops(pictures: list[Tensor], size: int, count: int, generator: torch.Generator) -> Tensor:
    crops = torch.empty(count, 3, size, size, dtype=torch.uint8)
    chosen = torch.randint(len(pictures), (count,), generator=generator).tolist()
    for crop, number in zip(crops, chosen, strict=True):
        picture = pictures[number]
        top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in picture.shape[1:])
        crop.copy_(picture[:, top : top + size, left : left + size])
    return crops


def folder(path: Path, size: int) -> tuple[Tensor, Tensor | None]:
    """Every image file below ``path`` that is not hidden, centre-cropped to a square and resized.

    Returns:
        ``(n, 3, size, size)`` uint8, and the classes ``(n,)`` or None.

    The classes, where every image lies in a sub-folder and there are at least two: the place of the sub-folder among
    its neighbours in the order of their names, as torchvision's ``ImageFolder`` counts them.
    """
    image, image_ops, numpy = (require(module, "--data folder") for module in ("PIL.Image", "PIL.ImageOps", "numpy"))
    if size < 4:
        raise UserError(f"--image-size must be at least 4, got {size}")
    if not path.is_dir():
        raise UserError(f"--data folder:{path}: there is no such folder")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    files = [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if not files:
        raise UserError(f"--data folder:{path}: no image files (png, jpg, bmp, gif, webp, tiff, ppm) in it")
    samples = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    for sample, file in zip(samples, files, strict=True):
        try:
            with image.open(file) as picture:
                if picture.mode[0] in "IF":  # which convert() would clip to white or black
                    raise ValueError(f"mode {picture.mode}: convert it to 8 bits per channel")
                square = image_ops.fit(picture.convert("RGB"), (size, size), method=image.Resampling.LANCZOS)
        except Exception as error:  # Pillow's decoders raise many exception types for a corrupt file
            raise UserError(f"--data folder: {file} cannot be read as an image ({error})") from error
        sample.copy_(torch.from_numpy(numpy.array(square)).permute(2, 0, 1))
    return samples, _classes_of_folders([file.relative_to(path) for file in files])


def _classes_of_folders(files: list[Path]) -> Tensor | None:
    names = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    if len(names) < 2 or any(len(file.parts) == 1 for file in files):
        return None
    return torch.tensor([names.index(file.parts[0]) for file in files])


def npz(path: Path) -> tuple[Tensor, Tensor | None]:
    """The arrays ``images`` (or ``data``, ``x``, or the only one) and, where present, ``labels`` (or ``y``).

    Images are ``(n, height, width)``, ``(n, channels, height, width)`` or ``(n, height, width, channels)``:
    uint8 0..255, or floating point within [0, 1] or [-1, 1]. Other data is ``(n, features)`` and is used
    unchanged.
    """
    with _archive(path) as archive:
        name = _samples_name(archive)
        label_name = next((label for label in ("labels", "y") if label in archive.files and label != name), None)
        labels = None if label_name is None else _as_labels(archive[label_name])
        return _as_samples(archive[name]), labels


def npz_sample_shape(path: Path) -> tuple[int, ...]:
    """The shape of one sample of `npz`, read from the header of its array alone."""
    with _archive(path) as archive, archive.zip.open(f"{_samples_name(archive)}.npy") as array:
        header = require("numpy.lib.format", "--data npz")
        read = header.read_array_header_1_0 if header.read_magic(array) == (1, 0) else header.read_array_header_2_0
        return tuple(_channels_first(torch.empty(read(array)[0], device="meta")).shape[1:])


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[Any]:
    """An open archive; what goes wrong with it is reported with its name."""
    numpy = require("numpy", "--data npz")
    if not path.is_file():
        raise UserError(f"--data npz:{path}: there is no such file")
    try:
        # Opened here: of a damaged archive, numpy leaves the file that it opened itself open.
        with path.open("rb") as file, numpy.load(file, allow_pickle=False) as archive:
            yield archive
    except UserError as error:
        raise UserError(f"--data npz:{path}: {error}") from error
    except (OSError, ValueError, EOFError, AttributeError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"--data npz:{path}: cannot be read as an npz archive of plain arrays ({error})") from error


def _samples_name(archive: Any) -> str:
    names: list[str] = archive.files
    if not names:
        raise UserError("holds no arrays")
    return next((name for name in ("images", "data", "x") if name in names), names[0])


def _as_samples(array: Any) -> Tensor:
    numeric = array.dtype.kind == "f" or array.dtype == "uint8"
    if not numeric or array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise UserError(
            "samples must be a non-empty uint8 or floating-point array of 2 to 4 dimensions, "
            f"found {array.dtype} of shape {array.shape}"
        )
    samples = _channels_first(torch.from_numpy(array))
    if samples.dtype == torch.uint8:
        return samples.float() if samples.dim() == 2 else samples
    samples = samples.float()
    if not samples.isfinite().all():
        raise UserError("the samples hold NaN or infinite values")
    if samples.dim() == 2:
        return samples
    low, high = samples.min().item(), samples.max().item()
    if low < -1 or high > 1:
        raise UserError(f"floating-point images must lie in [0, 1] or [-1, 1], found [{low:g}, {high:g}]")
    return samples * 2 - 1 if low >= 0 else samples


def _channels_first(samples: Tensor) -> Tensor:
    if samples.dim() == 3:
        return samples.unsqueeze(1)
    if samples.dim() == 4 and samples.shape[1] not in (1, 3) and samples.shape[3] in (1, 3):
        return samples.permute(0, 3, 1, 2).contiguous()
    return samples


def _as_labels(array: Any) -> Tensor:
    integers = array.dtype.kind in "iu" and array.ndim == 1
    if not integers or (array.size and not 0 <= array.min() <= array.max() < array.size):
        raise UserError(
            "labels must be a one-dimensional array of integers >= 0, the numbers of classes, "
            f"found {array.dtype} of shape {array.shape}"
            + (f" with values from {array.min()} to {array.max()}" if integers and array.size else "")
        )
    return torch.from_numpy(array.astype("int64"))


def torchvision_data(name: str, root: Path | str | None) -> list[Tensor]:
    """MNIST or CIFAR-10, downloaded once to ``root``: training and test images, uint8, and the classes of both."""
    datasets = require("torchvision.datasets", f"--data {name}")
    source = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    where = cache_folder() / "datasets" if root is None else Path(root)
    try:
        parts = [source(str(where), train=part, download=True) for part in (True, False)]
    except (OSError, RuntimeError) as error:
        raise UserError(f"--data {name}: not in {where} and cannot be downloaded ({error})") from error
    samples = [_channels_first(torch.as_tensor(part.data)) for part in parts]
    return [*samples, *(torch.as_tensor(part.targets) for part in parts)]
