"""Where a critic's gradient is penalised: at real or generated samples, between them, or around the real ones."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from wgan_fast.functional.interpolate import interpolate

Points = Literal["mixed", "real", "fake", "dragan"]


def penalty_points(
    points: str,
    real: Tensor | None,
    fake: Tensor | None,
    alpha: Tensor | None,
    generator: torch.Generator | None,
    backend: str,
    out: Tensor | None = None,
) -> Tensor:
    """Where the critic's gradient is penalised: see ``points`` and ``out`` of ``gradient_penalty``."""
    samples = _check_samples(points, real, fake)
    if points in ("real", "fake"):
        if out is not None:
            raise ValueError(f"out: expected None for points={points!r}, which are given, not computed")
        return samples[0]
    start, end = _ends(points, [tensor.detach() for tensor in samples], generator)
    return interpolate(end, start, alpha, generator=generator, out=out, backend=backend)


_NEEDED = {"mixed": ("real", "fake"), "real": ("real",), "fake": ("fake",), "dragan": ("real",)}


def _check_samples(points: str, real: Tensor | None, fake: Tensor | None) -> list[Tensor]:
    """The samples that these points are made of, real before fake."""
    if points not in _NEEDED:
        raise ValueError(f"points={points!r}: expected 'mixed', 'real', 'fake' or 'dragan'")
    samples = []
    for name in _NEEDED[points]:
        tensor = {"real": real, "fake": fake}[name]
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor for points={points!r}, got {type(tensor).__name__}")
        if not tensor.is_floating_point() or tensor.dim() < 2:
            raise ValueError(
                f"{name}: expected floating-point samples of shape (B, ...) with at least 2 dimensions, "
                f"got {tuple(tensor.shape)} {tensor.dtype}"
            )
        samples.append(tensor)
    return samples


def _ends(points: str, samples: list[Tensor], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The two ends between which the points are drawn: where alpha is 0, and where it is 1."""
    if points == "mixed":
        real, fake = samples
        return fake.to(real.dtype), real
    (real,) = samples
    noise = torch.rand(real.shape, dtype=real.dtype, device=real.device, generator=generator)
    return real, real + 0.5 * real.std() * noise
