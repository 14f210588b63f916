"""The trainer works with torch, numpy and safetensors alone; what another package would add is said once."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wgan_fast.training import Config, Run, UserError
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.run.checkpoint import iterations, load_checkpoint

SCRIPT = """
import sys

ABSENT = ("ot", "tyro", "rich", "matplotlib", "sklearn", "PIL", "torchmetrics", "torchvision", "yaml", "tensorboard",
          "triton", "scipy")

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Absent())

from pathlib import Path
import torch
from torch import nn
from wgan_fast.training import Config, Run, Trainer

def make():
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    critic = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
    config = Config(sample_shape=(3,), iterations=4, latent_dim=4, n_critic=1, batch_size=8, checkpoint_every=2)
    return Trainer(generator, critic, torch.randn(40, 3), config)

trainer = make()
assert trainer.train().iterations == 4
assert trainer.sample(5).shape == (5, 3)
run = Run(make(), Path("run"))
assert run.train().iterations == 4
again = Run(make(), Path("run"))
again.load()
assert torch.equal(again.trainer.sample(5), run.trainer.sample(5))
assert not any(name in sys.modules for name in ABSENT)
"""


def test_training_needs_torch_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    message = "no checkpoint will be known as the best: the sliced Wasserstein distance needs ot"
    assert done.stderr.count(message) == 1
    assert iterations(tmp_path / "run") == [2, 4]


def test_without_pot_no_checkpoint_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    small = {"width": 8, "batch_size": 8, "n_critic": 1, "iterations": 4, "checkpoint_every": 1}
    with caplog.at_level(logging.WARNING, "wgan_fast"):
        Run(build_trainer(Config(data="8gaussians", **small)), tmp_path).train()
    (message,) = caplog.messages
    assert message.startswith("no checkpoint will be known as the best: the sliced Wasserstein distance needs ot")
    assert iterations(tmp_path) == [3, 4]
    with pytest.raises(UserError, match="none of its checkpoints has been compared"):
        load_checkpoint(tmp_path, torch.device("cpu"), "best")
