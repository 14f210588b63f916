"""From a trained generator to samples: latents, classes, and paths between latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wgan_fast.training.errors import UserError

Labels = int | Sequence[int] | Tensor
"""One class for all samples, or one for each."""


def draw_latent(count: int, latent_dim: int, random: torch.Generator) -> Tensor:
    """``(count, latent_dim)`` standard normal noise on the device of ``random``."""
    return torch.randn(count, latent_dim, generator=random, device=random.device)


def generate(generator: nn.Module, latent: Tensor, labels: Tensor | None = None, *, batch_size: int = 1024) -> Tensor:
    """The samples of these latents ``(n, latent_dim)`` and classes ``(n,)``, computed in evaluation mode."""
    mode = generator.training
    generator.eval()
    inputs = [latent] if labels is None else [latent, labels]
    with torch.no_grad():
        parts = zip(*(torch.split(tensor, batch_size) for tensor in inputs), strict=True)
        samples = torch.cat([generator(*part) for part in parts])
    generator.train(mode)
    return samples


def as_labels(labels: Labels, count: int, num_classes: int, device: torch.device) -> Tensor:
    """``(count,)`` int64 classes on the device, from one class for all or one for each."""
    if not num_classes:
        raise UserError("this generator takes no class: it was not trained with --conditional")
    given = torch.as_tensor(labels, device=device)
    if given.dtype.is_floating_point or given.dtype.is_complex or given.dtype == torch.bool:
        raise UserError(f"labels must be integers, got {given.dtype}")
    if given.shape not in ((), (count,)):
        raise UserError(f"labels must be one class or of shape ({count},), got shape {tuple(given.shape)}")
    wrong = given[(given < 0) | (given >= num_classes)]
    if len(wrong.flatten()):
        raise UserError(f"classes are numbered from 0 to {num_classes - 1}, got {int(wrong.flatten()[0])}")
    return given.long().expand(count)


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points on the great circles between pairs of latents (White 2016, Sampling Generative Networks, section 2.1).

        sin((1 - t) omega) / sin(omega) start + sin(t omega) / sin(omega) end,  omega the angle between the two

    A straight line between two Gaussian latents passes through points of a smaller norm than the generator was trained
    on; the arc does not. Where the two are parallel or opposite, so that no arc is the shortest, the line is used.

    Args:
        start, end: ``(n, latent_dim)``.
        steps: points of a path, its ends among them.

    Returns:
        ``(n, steps, latent_dim)``.
    """
    t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[None, :, None]
    first, last = start[:, None], end[:, None]
    cosine = nn.functional.cosine_similarity(first, last, dim=2, eps=torch.finfo(start.dtype).tiny)[..., None]
    omega = cosine.clamp(-1, 1).acos()
    sine = omega.sin()
    straight = sine.abs() < 1e-4
    sine = torch.where(straight, 1, sine)
    arc = ((1 - t) * omega).sin() / sine * first + (t * omega).sin() / sine * last
    return torch.where(straight, torch.lerp(first, last, t), arc)
