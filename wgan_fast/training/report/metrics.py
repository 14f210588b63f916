"""Distances between a batch of generated samples and a batch of real ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wgan_fast.training.data.points import Modes
from wgan_fast.training.errors import require

HIGH_QUALITY_STDS = 3.0
COVERED_SHARE = 0.25


def wasserstein_1(x: Tensor, y: Tensor) -> float:
    """Exact Wasserstein-1 distance between two samples, Euclidean ground cost, in the units of the data.

    Solved as a linear program by POT (``ot.emd2``): about a second for 2000 against 2000 points. Between two
    finite samples of one distribution it is not 0, so figures are printed beside those of real data.

    Args:
        x, y: ``(n, features)`` and ``(m, features)``.
    """
    ot = require("ot", "the exact Wasserstein distance")
    a, b = (t.detach().double().flatten(1).cpu().numpy() for t in (x, y))
    return float(ot.emd2([], [], ot.dist(a, b, metric="euclidean"), numItermax=5_000_000))


class ModeCoverage(NamedTuple):
    """``high_quality``: the fraction of samples within 3 std of the nearest mode. A mode is ``covered``
    when such samples reach a quarter of its fair share; ``total`` is the number of modes."""

    covered: int
    total: int
    high_quality: float


def mode_coverage(samples: Tensor, modes: Modes) -> ModeCoverage:
    """Which modes of a known mixture ``(n, 2)`` samples reach.

    The 3-std rule is that of Lin et al. 2018 (PacGAN, section 4.1), who count a mode from a single sample on;
    here it takes a quarter of the fair share n / modes, so that a few strays do not count.
    """
    centers = modes.centers.to(samples.device)
    distance, nearest = torch.cdist(samples.detach().float(), centers).min(dim=1)
    good = distance < HIGH_QUALITY_STDS * modes.std
    counts = nearest[good].bincount(minlength=len(centers))
    covered = counts >= COVERED_SHARE * len(samples) / len(centers)
    return ModeCoverage(int(covered.sum()), len(centers), good.float().mean().item())


def sliced_wasserstein(x: Tensor, y: Tensor, *, projections: int = 512, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance of flattened samples (POT), in the units of the data.

    Args:
        x, y: ``(n, ...)`` and ``(m, ...)`` samples of one shape.
        projections: number of random directions.
        seed: draws the directions; distances of one seed compare.
    """
    ot = require("ot", "the sliced Wasserstein distance")
    a, b = (t.detach().double().flatten(1).cpu().numpy() for t in (x, y))
    return float(ot.sliced_wasserstein_distance(a, b, n_projections=projections, seed=seed))


def frechet_distance(extractor: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 256) -> float:
    """Fréchet distance between Gaussians fitted to the features of two samples (Heusel et al. 2017, eq. 6).

    The extractor is not Inception, so the figure compares with others of the same extractor only, never with
    published FIDs.

    Args:
        extractor: module from samples to ``(n, features)``, with the attribute ``num_features``.
        x, y: at least two samples each.
    """
    image = require("torchmetrics.image.fid", "the Fréchet distance")
    metric = image.FrechetInceptionDistance(feature=extractor).to(x.device)
    for samples, is_real in ((x, False), (y, True)):
        for part in torch.split(samples, batch_size):
            metric.update(part, real=is_real)
    return float(metric.compute())


def nearest_distance(x: Tensor, reference: Tensor) -> float:
    """Median Euclidean distance from a sample to the nearest of ``reference``, in the units of the data.

    Generated samples that lie much nearer to the training data than held-out real samples do were memorised.
    """
    distances = torch.cdist(x.detach().float().flatten(1), reference.float().flatten(1))
    return distances.min(dim=1).values.median().item()
