"""Quality of generated samples: every figure beside the same one for held-out real data."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wgan_fast.training.data.points import PointStream
from wgan_fast.training.data.sets import Data, TensorData, as_float
from wgan_fast.training.errors import UserError
from wgan_fast.training.report.features import FeatureNetwork, feature_network
from wgan_fast.training.report.metrics import (
    frechet_distance,
    mode_coverage,
    nearest_distance,
    sliced_wasserstein,
    wasserstein_1,
)

MAX_SAMPLES = 2000
MAX_REFERENCE = 10_000
CLASS_SAMPLES = 500
MODE_SAMPLES = 10_000

Sampler = Callable[[int], Tensor]
ClassSampler = Callable[[Tensor], Tensor]


class Figure(NamedTuple):
    """One line of the summary. ``held_out`` is what a perfect generator would reach, up to sampling noise."""

    name: str
    generated: float | str
    held_out: float | str


class Evaluation(NamedTuple):
    """The figures, and sentences on how they were made."""

    figures: list[Figure]
    notes: list[str]


def evaluate(
    sample: Sampler,
    data: Data,
    *,
    sample_classes: ClassSampler | None = None,
    network: FeatureNetwork | None = None,
) -> Evaluation:
    """Compare generated samples with real ones.

    Points: exact Wasserstein-1 distance to fresh real points, and the modes covered where the modes are
        known.
    Images: sliced Wasserstein and Fréchet distances to the training samples, and the classes among 500
    samples where the data has classes. As many held-out real samples are evaluated in the same way.

    Args:
        sample: from a number n to ``(n, *sample_shape)`` generated samples.
        data: the data the generator was trained on.
        sample_classes: of a conditional generator: from classes ``(n,)`` to a sample of each.
        network: where the Fréchet distance's features and the classes come from; by default `feature_network`'s.

    Raises:
        UserError: the generated samples are not finite.
    """
    random = torch.Generator().manual_seed(0)
    if len(data.sample_shape) == 1:
        return _evaluate_points(sample, data, random)
    if isinstance(data, TensorData) and len(data.sample_shape) == 3:
        return _evaluate_images(sample, sample_classes, data, network or feature_network(data), random)
    raise UserError(f"{data.name}: only points and images held in memory can be evaluated")


def _finite(samples: Tensor) -> Tensor:
    if not samples.isfinite().all():
        raise UserError("the generator's samples hold NaN or infinite values: the training diverged")
    return samples.detach()


def _evaluate_points(sample: Sampler, data: Data, random: torch.Generator) -> Evaluation:
    real = data.held_out(MAX_SAMPLES, random)
    reference = data.batch(len(real), random)
    fake = _finite(sample(len(real)))
    figures = [Figure("Wasserstein-1 distance (exact)", wasserstein_1(fake, reference), wasserstein_1(real, reference))]
    notes = [f"{len(real)} points each, compared with as many other real points"]
    if isinstance(data, PointStream) and data.modes is not None:
        ours = mode_coverage(_finite(sample(MODE_SAMPLES)), data.modes)
        theirs = mode_coverage(data.held_out(MODE_SAMPLES, random), data.modes)
        figures += [
            Figure("modes covered", f"{ours.covered} of {ours.total}", f"{theirs.covered} of {theirs.total}"),
            Figure("high-quality samples", ours.high_quality, theirs.high_quality),
        ]
        notes.append(
            "high quality: within 3 std of a mode; covered: such samples reach a quarter of the fair share "
            f"of {MODE_SAMPLES}"
        )
    return Evaluation(figures, notes)


def _evaluate_images(
    sample: Sampler,
    sample_classes: ClassSampler | None,
    data: TensorData,
    network: FeatureNetwork,
    random: torch.Generator,
) -> Evaluation:
    real = data.held_out(MAX_SAMPLES, random)
    reference = data.training(MAX_REFERENCE, random)
    fake = _finite(sample(len(real)))
    figures = [
        Figure("distance to nearest training sample", *(nearest_distance(x, reference) for x in (fake, real))),
        Figure("sliced Wasserstein distance", *(sliced_wasserstein(x, reference) for x in (fake, real))),
    ]
    notes = [
        f"{len(real)} samples each, compared with {len(reference)} training samples",
        "distance to nearest: the median; far below held-out data's if samples were memorised",
    ]
    if len(real) > 1 and len(reference) > 1:
        distances = (frechet_distance(network, x, reference) for x in (fake, real))
        figures.insert(0, Figure("Fréchet distance", *distances))
        notes.append(
            f"Fréchet distance on the features of a small network that tells {network.task} apart "
            f"({network.accuracy:.0%} right on held-out data): not comparable with published FIDs"
        )
    else:
        notes.append("no Fréchet distance: it needs 2 held-out and 2 training samples")
    if data.train_labels is not None:
        counts = [
            int(network.classify(x).bincount(minlength=data.num_classes).count_nonzero())
            for x in (_finite(sample(CLASS_SAMPLES)), data.held_out(CLASS_SAMPLES, random))
        ]
        figures.append(Figure(f"classes among {CLASS_SAMPLES}", *(f"{n} of {data.num_classes}" for n in counts)))
    if sample_classes is not None and data.held_out_labels is not None:
        labels = data.held_out_labels[:MAX_SAMPLES]
        examples = (_finite(sample_classes(labels)), as_float(data.held_out_samples[:MAX_SAMPLES]))
        shares = [float((network.classify(x) == labels).float().mean()) for x in examples]
        figures.append(Figure("recognised as their class", *(f"{share:.1%}" for share in shares)))
        notes.append("recognised: the share that the same small network puts into the class they were drawn for")
    return Evaluation(figures, notes)
