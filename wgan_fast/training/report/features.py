"""The small network whose features the Fréchet distance is measured in, trained once on the real data.

Labelled data: a classifier of its classes. Data without labels: the network learns to tell by how many
quarter turns a picture was rotated (Gidaris et al. 2018), which takes the same training loop. The trained
network is kept in the user's cache folder, keyed by the data themselves; its seed is fixed, so figures of
different runs compare.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from wgan_fast.training.data.images import cache_folder
from wgan_fast.training.data.sets import TensorData, as_float
from wgan_fast.training.errors import require
from wgan_fast.training.files import replace_file

SEED = 0
STEPS = 600
BATCH_SIZE = 64
FEATURES = 64
RECIPE = "1"
"""Part of the cache's key: changes whenever the network or its training does."""


class FeatureNetwork(nn.Module):
    """Strided convolutions down to at most 4x4, then ``num_features`` units; ``forward`` returns those units.

    Attributes:
        head: maps features to class scores.
        task: what it was trained for, in words.
        accuracy: on held-out real data, from 0 to 1.
    """

    def __init__(self, sample_shape: tuple[int, ...], num_classes: int, task: str) -> None:
        super().__init__()
        self.num_features = FEATURES
        self.task = task
        self.accuracy = float("nan")
        channels, height, width = sample_shape
        body: list[nn.Module] = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()]
        inputs = 32
        while max(height, width) > 4:
            body += [nn.Conv2d(inputs, 64, 3, stride=2, padding=1), nn.ReLU()]
            height, width, inputs = (height + 1) // 2, (width + 1) // 2, 64
        body += [nn.Flatten(), nn.Linear(inputs * height * width, FEATURES), nn.ReLU()]
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        return features

    def classify(self, x: Tensor) -> Tensor:
        """``(n,)`` int64, the most probable class of each sample."""
        return self.head(self.body(x)).argmax(dim=1)  # type: ignore[no-any-return]


def feature_network(data: TensorData) -> FeatureNetwork:
    """The network for this data: from the cache where it is there and intact, else trained and cached."""
    labelled = data.train_labels is not None
    turns = 4 if data.sample_shape[1] == data.sample_shape[2] else 2
    task = f"{data.num_classes} classes" if labelled else f"{turns} rotations"
    path = cache_folder() / "features" / f"{_key(data)}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = FeatureNetwork(data.sample_shape, data.num_classes if labelled else turns, task)
        if not _load(network, path):
            _train(network, data, turns)
            _save(network, path)
    return network.to(data.train_samples.device).eval().requires_grad_(False)


def _train(network: FeatureNetwork, data: TensorData, turns: int) -> None:
    device = data.train_samples.device
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(STEPS):
        index = torch.randint(len(data.train_samples), (BATCH_SIZE,)).to(device)
        x, y = _examples(data.train_samples[index], data.train_labels, index, turns)
        loss = nn.functional.cross_entropy(network.head(network(x)), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        held_out = data.held_out_samples[:2000]
        index = torch.arange(len(held_out), device=device)
        x, y = _examples(held_out, data.held_out_labels, index, turns)
        network.accuracy = (network.classify(x) == y).float().mean().item()


def _examples(samples: Tensor, labels: Tensor | None, index: Tensor, turns: int) -> tuple[Tensor, Tensor]:
    x = as_float(samples)
    if labels is not None:
        return x, labels[index]
    step = 4 // turns
    y = torch.randint(turns, (len(x),)).to(x.device)
    rotated = [torch.rot90(x, turn * step, dims=(2, 3)) for turn in range(turns)]
    return torch.stack(rotated)[y, torch.arange(len(x), device=x.device)], y


def _key(data: TensorData) -> str:
    digest = hashlib.sha256(f"{RECIPE} {SEED} {STEPS} {tuple(data.train_samples.shape)}".encode())
    for tensor in (data.train_samples, data.train_labels):
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().numpy().data)
    name = "".join(c if c.isalnum() else "-" for c in data.name)[-40:]
    return f"{name}-{digest.hexdigest()[:16]}"


def _load(network: FeatureNetwork, path: Path) -> bool:
    safetensors = require("safetensors", "the cache of feature networks")
    try:
        with safetensors.safe_open(path, "pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            network.accuracy = float(file.metadata()["accuracy"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, safetensors.SafetensorError):
        return False
    return True


def _save(network: FeatureNetwork, path: Path) -> None:
    safetensors = require("safetensors.torch", "the cache of feature networks")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.save(tensors, {"accuracy": str(network.accuracy)})
    with contextlib.suppress(OSError):  # with a read-only cache folder the network is trained again each time
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
