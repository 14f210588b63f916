"""Tries the package as it is installed, with torch alone: ``python -I build_tools/bare_trial.py``.

-I hides every source tree. `make wheel` and cibuildwheel run this against the wheel that they have built.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import wgan_fast


def main() -> None:
    package = Path(wgan_fast.__file__).parent
    assert package.parent.name in ("site-packages", "dist-packages"), f"a source tree was imported: {package}"
    assert wgan_fast.__version__ == importlib.metadata.version("wgan-fast")
    status = wgan_fast.available_backends()["cpu"]
    assert status.available, status.reason
    for ours, expected in zip(results("cpu"), results("reference"), strict=True):
        torch.testing.assert_close(ours, expected)
    assert all(bool(result.isfinite().all()) for result in results("auto"))
    for command in ("doctor", "explain"):
        done = run(command)
        assert done.returncode == 0, done.stderr
    refused = run("train")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith('pip install "wgan-fast[train]"'), refused.stderr
    print(f"wgan_fast {wgan_fast.__version__} works with torch {torch.__version__} alone")


def run(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "wgan_fast", command], capture_output=True, text=True, check=False)


def results(backend: str) -> list[Tensor]:
    """What the operations that take ``backend`` make of the same input."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(5, 33), nn.LayerNorm(33), nn.SiLU(), nn.Linear(33, 9), nn.ReLU(), nn.Linear(9, 1))
    real, fake = torch.randn(2, 64, 5)
    alpha = torch.rand(64, 1)
    scores, gradients = wgan_fast.score_and_gradient(critic, real)
    penalty = wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha, weight=10, backend=backend)
    r1, shared = wgan_fast.r1_penalty(critic, real, return_scores=True, backend=backend)
    loss = penalty + r1 + shared.mean() + scores.mean() + wgan_fast.gradient_norm_penalty(gradients, backend=backend)
    loss = loss + wgan_fast.r2_penalty(critic, fake, method="forward", backend=backend)
    loss.backward()
    made = [loss, wgan_fast.interpolate(real, fake, alpha, backend=backend)]
    made += [parameter.grad for parameter in critic.parameters() if parameter.grad is not None]
    for kind in (wgan_fast.optim.RMSprop, wgan_fast.optim.Adam):
        weight = torch.randn(1001, requires_grad=True)
        weight.grad = torch.randn(1001)
        kind([weight], clip_value=0.5, backend=backend).step()
        made.append(weight)
    wgan_fast.clip_weights_(critic, 0.01, backend=backend)
    return [*made, *critic.parameters()]


if __name__ == "__main__":
    main()
