"""Every source of real samples: shapes, ranges, the split, and one clear sentence for each way to fail."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from wgan_fast.training import Config, Data, TensorData, UserError, load_data
from wgan_fast.training.data import images
from wgan_fast.training.data.sets import split
from wgan_fast.training.loop.distributed import Processes
from wgan_fast.training.loop.draws import Draws


def _tensor_data(data: Data) -> TensorData:
    assert isinstance(data, TensorData)
    return data


def test_digits_are_scaled_labelled_and_split_once_for_all() -> None:
    data, again = _tensor_data(load_data("digits")), _tensor_data(load_data("digits"))
    assert data.sample_shape == (1, 8, 8)
    assert len(data.train_samples) == 1348
    assert len(data.held_out_samples) == 449
    assert data.num_classes == 10
    assert data.train_samples.aminmax() == (-1, 1)
    assert torch.equal(data.held_out_samples, again.held_out_samples)
    everything = torch.cat([data.train_samples, data.held_out_samples]).flatten(1)
    original, _ = images.digits()
    assert torch.equal(everything.unique(dim=0), original.flatten(1).unique(dim=0))


def test_indices_are_drawn_where_the_samples_are() -> None:
    """Drawn on a GPU for samples on the host, they would be waited for in every batch."""
    data, elsewhere = split("numbers", torch.arange(50.0).view(50, 1)), torch.device("meta")
    assert Draws(data, Config(data="digits"), elsewhere, Processes()).order.device == torch.device("cpu")


def test_batches_are_training_samples_drawn_by_the_generator() -> None:
    data = split("numbers", torch.arange(50.0).view(50, 1))
    batch = data.batch(500, torch.Generator().manual_seed(0))
    assert torch.equal(batch, data.batch(500, torch.Generator().manual_seed(0)))
    assert set(batch.flatten().tolist()) == set(data.train_samples.flatten().tolist())
    held_out = data.held_out(1000, torch.Generator().manual_seed(0)).flatten().tolist()
    assert sorted(held_out) == sorted(data.held_out_samples.flatten().tolist())
    assert set(held_out).isdisjoint(batch.flatten().tolist())
    assert len(data.training(7, torch.Generator().manual_seed(0)).unique()) == 7


def test_labels_stay_with_their_samples() -> None:
    labels = torch.arange(20) % 3
    data = split("pairs", labels.float().view(20, 1), labels)
    for samples, found in (
        (data.train_samples, data.train_labels),
        (data.held_out_samples, data.held_out_labels),
    ):
        assert found is not None
        assert torch.equal(samples.flatten().long(), found)


def test_bytes_become_floats_between_minus_one_and_one() -> None:
    samples = torch.tensor([0, 255, 51, 204], dtype=torch.uint8).view(4, 1)
    batch = split("bytes", samples).batch(100, torch.Generator().manual_seed(0))
    assert batch.dtype == torch.float32
    assert set(batch.flatten().tolist()) <= {-1.0, 1.0, *(torch.tensor([51.0, 204.0]) / 127.5 - 1).tolist()}


@pytest.mark.parametrize(
    ("samples", "labels", "held_out", "message"),
    [
        (torch.zeros(1, 2), None, None, "at least 2 samples, found 1"),
        (torch.zeros(4), None, None, r"with at least 2 dimensions, found torch.float32 of shape \(4,\)"),
        (torch.zeros(4, 2, dtype=torch.int64), None, None, "uint8 or floating-point, .*, found torch.int64"),
        (torch.zeros(4, 2), torch.zeros(3), None, r"labels of shape \(4,\)"),
        (torch.zeros(4, 2), torch.zeros(4), None, "labels must be integers of at least 0, found torch.float32 from 0"),
        (torch.zeros(4, 2), torch.arange(4) - 1, None, "labels must be .*, found torch.int64 from -1"),
        (torch.zeros(4, 2), None, 4, "held_out must be between 1 and 3, got 4"),
    ],
)
def test_split_refuses_what_cannot_be_split(
    samples: torch.Tensor, labels: torch.Tensor | None, held_out: int | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        split("bad", samples, labels, held_out=held_out)


def test_split_makes_float32_of_doubles() -> None:
    samples = torch.arange(8.0, dtype=torch.float64).reshape(4, 2)
    data = split("doubles", samples)
    assert data.train_samples.dtype == data.held_out_samples.dtype == torch.float32
    assert torch.cat([data.train_samples, data.held_out_samples]).sum() == 28


@pytest.mark.parametrize("size", [32, 64])
def test_photo_crops_repeat_and_hold_out_another_region(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CROPS", 64)
    train, held_out = images.photo_crops(size)
    assert train.shape == (64, 3, size, size)
    assert held_out.shape == (8, 3, size, size)
    assert train.dtype == torch.uint8
    assert torch.equal(train, images.photo_crops(size)[0])
    assert train.float().std() > 10


@pytest.mark.needs("sklearn", "PIL")
def test_photo_crops_refuse_a_size_that_does_not_fit() -> None:
    with pytest.raises(UserError, match="--image-size must be between 8 and 128 for --data photos, got 200"):
        images.photo_crops(200)


def test_folder_reads_every_image_below_it(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "inner").mkdir()
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (9, 30), 128).save(tmp_path / "inner" / "b.JPG", format="JPEG")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._a.png").write_text("what macOS writes beside a file on a foreign disk")
    (tmp_path / ".thumbnails").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / ".thumbnails" / "a.png")
    samples, labels = images.folder(tmp_path, 16)
    assert labels is None
    assert samples.shape == (2, 3, 16, 16)
    assert samples[0].flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]
    assert (samples[1].int() - 128).abs().max() <= 2
    assert load_data(f"folder:{tmp_path}", image_size=16).sample_shape == (3, 16, 16)


def _empty(path: Path) -> None:
    path.mkdir()


def _with_corrupt_image(path: Path) -> None:
    path.mkdir()
    (path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")


def _with_16_bits(path: Path) -> None:
    from PIL import Image

    path.mkdir()
    Image.fromarray(np.full((9, 9), 300, np.uint16)).save(path / "deep.png")


@pytest.mark.needs("PIL")
@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "there is no such folder"),
        (_empty, "no image files"),
        (_with_corrupt_image, r"broken\.png cannot be read as an image"),
        (_with_16_bits, r"deep\.png cannot be read as an image \(mode I;16: convert it to 8 bits per channel\)"),
    ],
)
def test_folder_says_what_is_wrong(tmp_path: Path, prepare: Callable[[Path], None], message: str) -> None:
    prepare(tmp_path / "pictures")
    with pytest.raises(UserError, match=message):
        images.folder(tmp_path / "pictures", 16)


@pytest.mark.parametrize(
    ("array", "shape", "dtype"),
    [
        (np.zeros((5, 8, 8), np.uint8), (5, 1, 8, 8), torch.uint8),
        (np.zeros((5, 8, 9, 3), np.uint8), (5, 3, 8, 9), torch.uint8),
        (np.zeros((5, 3, 8, 9), np.float64), (5, 3, 8, 9), torch.float32),
        (np.full((5, 2), 7.0), (5, 2), torch.float32),
    ],
)
def test_npz_takes_the_usual_layouts(
    tmp_path: Path, array: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    np.savez(tmp_path / "a.npz", images=array, labels=np.arange(5))
    samples, labels = images.npz(tmp_path / "a.npz")
    assert samples.shape == shape
    assert samples.dtype == dtype
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_npz_keeps_values_and_scales_zero_to_one(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 128, dtype=np.float32).reshape(2, 8, 8)
    np.savez(tmp_path / "unit.npz", values)
    np.savez(tmp_path / "signed.npz", values * 2 - 1)
    unit, labels = images.npz(tmp_path / "unit.npz")
    signed, _ = images.npz(tmp_path / "signed.npz")
    assert labels is None
    assert torch.allclose(unit, signed)
    assert unit.aminmax() == (-1, 1)
    last_channels = np.random.default_rng(0).integers(0, 255, (2, 4, 5, 3)).astype(np.uint8)
    np.savez(tmp_path / "last.npz", last_channels)
    assert np.array_equal(images.npz(tmp_path / "last.npz")[0].permute(0, 2, 3, 1).numpy(), last_channels)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no arrays"),
        (
            {"images": np.zeros((0, 8, 8), np.uint8)},
            r"non-empty uint8 or floating-point .* shape \(0, 8, 8\)",
        ),
        ({"images": np.zeros(5)}, r"2 to 4 dimensions, found float64 of shape \(5,\)"),
        ({"images": np.zeros((5, 8, 8), np.int64)}, "found int64"),
        ({"images": np.array(["a"], object)}, "cannot be read as an npz archive of plain arrays"),
        ({"images": np.full((5, 8, 8), 3.0)}, r"must lie in \[0, 1\] or \[-1, 1\], found \[3, 3\]"),
        ({"images": np.full((5, 8, 8), np.nan)}, "NaN or infinite"),
        (
            {"images": np.zeros((5, 8, 8)), "labels": np.zeros((5, 2), int)},
            "labels must be a one-dimensional",
        ),
        ({"images": np.zeros((5, 8, 8)), "labels": np.array([-1, 0, 0, 0, 0])}, "integers >= 0"),
    ],
)
def test_npz_says_what_is_wrong(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
    with pytest.raises(UserError, match=message):
        images.npz(tmp_path / "a.npz")


@pytest.mark.filterwarnings("error::ResourceWarning")  # the file is closed, too
@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(40)])
def test_npz_refuses_a_corrupt_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as an npz archive"):
        images.npz(tmp_path / "a.npz")


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_npz_refuses_a_truncated_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((50, 8, 8), np.uint8))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read as an npz archive"):
        images.npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "--data nonsense is unknown; expected one of digits, photos"),
        ("folder:", "needs a path after the colon"),
        ("npz:", "needs a path after the colon"),
        ("npz:nowhere.npz", "there is no such file"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(name)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_torchvision_data_explains_an_absent_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(UserError, match=f"--data {name} needs torchvision"):
        load_data(name)


class _FakeCifar:
    """torchvision.datasets.CIFAR10 by its documentation: a NumPy array of bytes, a list of classes."""

    def __init__(self, root: str, train: bool, download: bool) -> None:
        assert download
        count = 6 if train else 2
        self.data = np.full((count, 32, 32, 3), 255 if train else 0, np.uint8)
        self.targets = [i % 10 for i in range(count)]


class _FakeMnist:
    """torchvision.datasets.MNIST by its documentation: tensors of bytes and of classes."""

    def __init__(self, root: str, train: bool, download: bool) -> None:
        if root.endswith("missing"):
            raise RuntimeError("no network")
        count = 6 if train else 2
        self.data = torch.full((count, 28, 28), 255 if train else 0, dtype=torch.uint8)
        self.targets = torch.arange(count)


@pytest.fixture
def fake_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = types.SimpleNamespace(CIFAR10=_FakeCifar, MNIST=_FakeMnist)
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(datasets=datasets))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


@pytest.mark.usefixtures("fake_torchvision")
@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_torchvision_data_keeps_its_own_split(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    data = _tensor_data(load_data(name, data_root=tmp_path))
    assert data.sample_shape == shape
    assert data.batch(10, torch.Generator()).unique().tolist() == [1]
    assert data.held_out(10, torch.Generator()).unique().tolist() == [-1]
    assert len(data.held_out_samples) == 2


@pytest.mark.usefixtures("fake_torchvision")
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_torchvision_data_has_classes(name: str, tmp_path: Path) -> None:
    data = _tensor_data(load_data(name, data_root=tmp_path, conditional=True))
    assert data.num_classes == 6
    samples, labels = data.labelled_batch(40, torch.Generator().manual_seed(0))
    assert labels is not None
    assert labels.unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert samples.shape == (40, *data.sample_shape)


@pytest.mark.usefixtures("fake_torchvision")
def test_torchvision_data_explains_a_failed_download(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be downloaded"):
        load_data("mnist", data_root=tmp_path / "missing")
