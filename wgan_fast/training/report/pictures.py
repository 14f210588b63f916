"""Pictures: samples as a grid of images or as points over real ones; the critic; the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wgan_fast.penalties import first_output
from wgan_fast.training.errors import UserError, require
from wgan_fast.training.loop.trainer import Trainer

CLASSES_SHOWN = 20
SAMPLES_OF_A_CLASS = 10
POINTS_SHOWN = 1000
STEPS_OF_A_PATH = 10
TILE = 56
GAP = 4
PLANE = 3.0
RESOLUTION = 128


def write_drawn(
    trainer: Trainer, path: Path, count: int, *, label: int | None = None, rows: int | None = None, seed: int = 0
) -> None:
    """Write ``count`` samples, or ``rows`` of paths between two latents; of one class, or of all of them in turn.

    Args:
        path: of a picture or, where it ends in .npz, of the arrays ``samples``, ``(n, *sample_shape)`` or ``(rows,
            columns, *sample_shape)``, and ``labels``, one for each sample or path of a conditional generator.

    Raises:
        UserError: samples of this shape cannot be drawn, or there is no such class.
    """
    labels, classes = None, trainer.config.num_classes
    if label is not None:
        labels = torch.full((rows or count,), label)
    elif classes:
        labels = torch.arange(rows or count) % classes
    if rows is not None:
        columns: int | None = STEPS_OF_A_PATH
        samples = trainer.interpolate(rows, STEPS_OF_A_PATH, labels=labels, seed=seed)
    else:
        columns = classes if label is None and 0 < classes <= CLASSES_SHOWN else None
        samples = trainer.sample(count, labels=labels, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        arrays = {"samples": samples} if labels is None else {"samples": samples, "labels": labels}
        numpy = require("numpy", "writing an npz")
        numpy.savez_compressed(path, **{name: tensor.cpu().numpy() for name, tensor in arrays.items()})
        return
    shape = trainer.data.sample_shape
    if not _draw(trainer, path, samples.reshape(-1, *shape), columns):
        raise UserError(f"samples of shape {shape} cannot be drawn; --out samples.npz writes the numbers")


def write_samples(trainer: Trainer, path: Path) -> bool:
    """Draw samples of fixed latents, so that two pictures of one run compare; False for data that cannot be drawn."""
    shape = trainer.data.sample_shape
    if len(shape) == 3 and trainer.config.conditional:
        classes = torch.arange(min(trainer.config.num_classes, CLASSES_SHOWN)).repeat_interleave(SAMPLES_OF_A_CLASS)
        return _draw(trainer, path, trainer.sample(len(classes), labels=classes), SAMPLES_OF_A_CLASS)
    count = POINTS_SHOWN if len(shape) < 3 else 100 if shape[1] <= 16 else 64
    return _draw(trainer, path, trainer.sample(count), None)


def _draw(trainer: Trainer, path: Path, samples: Tensor, columns: int | None) -> bool:
    if samples.dim() == 4:
        write_image_grid(path, samples, columns=columns)
    elif samples.shape[1:] == (2,):
        write_points(path, samples, real_points(trainer, len(samples)))
    else:
        return False
    return True


def real_points(trainer: Trainer, count: int) -> Tensor:
    """Real points to draw generated ones over, drawn separately from the training's."""
    return trainer.data.batch(count, torch.Generator(trainer.device).manual_seed(0))


def write_image_grid(path: Path, samples: Tensor, *, columns: int | None = None) -> None:
    """A grid of images ``(n, channels, height, width)`` in [-1, 1]; small ones are enlarged by an integer factor.

    Of other than 3 channels the first is drawn. There are by default about as many columns as rows.
    """
    image = require("PIL.Image", "drawing samples")
    count, channels, height, width = samples.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, TILE // max(height, width))
    pixels = samples.detach().cpu().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    pixels = pixels if channels == 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    pixels = pixels.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    step_down, step_right = height * scale + GAP, width * scale + GAP
    canvas = torch.full((3, rows * step_down + GAP, columns * step_right + GAP), 90, dtype=torch.uint8)
    for number, tile in enumerate(pixels):
        top, left = GAP + number // columns * step_down, GAP + number % columns * step_right
        canvas[:, top : top + height * scale, left : left + width * scale] = tile
    image.fromarray(canvas.permute(1, 2, 0).numpy()).save(path)


def write_points(path: Path, generated: Tensor, real: Tensor) -> None:
    """Generated points ``(n, 2)`` over real ones."""
    figure = _figure(5, 5)
    axes = figure.add_subplot()
    _scatter(axes, generated, real)
    axes.set_aspect("equal")
    figure.savefig(path)


def write_critic(path: Path, critic: nn.Module, generated: Tensor, real: Tensor) -> None:
    """Contours of the critic over [-3, 3]² on 128x128 points, with real and generated points over them.

    Gulrajani et al. 2017, figure 2.
    """
    parameter = next(critic.parameters(), generated)
    axis = torch.linspace(-PLANE, PLANE, RESOLUTION)
    plane = torch.cartesian_prod(axis, axis).to(parameter)
    critic.eval()
    with torch.no_grad():
        values = first_output(critic(plane)).reshape(RESOLUTION, RESOLUTION).float().cpu()
    figure = _figure(6, 5)
    axes = figure.add_subplot()
    contours = axes.contourf(axis.numpy(), axis.numpy(), values.T.numpy(), levels=30, cmap="viridis")
    figure.colorbar(contours, label="critic")
    _scatter(axes, generated, real)
    axes.set(xlim=(-PLANE, PLANE), ylim=(-PLANE, PLANE), aspect="equal")
    figure.savefig(path)


def write_curves(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """wasserstein_estimate, penalty or weight saturation, and gradient norm over the iterations of metrics.jsonl's
    ``records``; quantities that no record has are left out."""
    titles = {
        "wasserstein_estimate": "wasserstein_estimate = D(real) - D(fake)",
        "penalty": "penalty (weighted)",
        "weight_saturation": "share of critic weights at the clip value",
        "gradient_norm": "critic's gradient norm",
    }
    present = [name for name in titles if any(record.get(name) is not None for record in records)]
    figure = _figure(4.5 * max(len(present), 1), 3.4)
    for place, name in enumerate(present, start=1):
        axes = figure.add_subplot(1, len(present), place)
        pairs = [(record["iteration"], record[name]) for record in records if record.get(name) is not None]
        iterations, values = zip(*pairs, strict=True)
        axes.plot(iterations, values, linewidth=0.6, alpha=0.4)
        axes.plot(iterations, _smooth(values), color="C0")
        if name == "gradient_norm":
            axes.axhline(1, color="black", linewidth=0.6, linestyle="dotted")
        axes.set(title=titles[name], xlabel="generator iteration")
        axes.grid(alpha=0.3)
    figure.savefig(path)


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over a twentieth of the curve, narrower at its ends."""
    half = max(1, len(values) // 40)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _figure(width: float, height: float) -> Any:
    figure = require("matplotlib.figure", "drawing curves")
    return figure.Figure(figsize=(width, height), dpi=120, layout="constrained")


def _scatter(axes: Any, generated: Tensor, real: Tensor) -> None:
    styles = ((real, "orange", 30, "real"), (generated, "crimson", 4, "generated"))
    for points, color, size, label in styles:
        x, y = points.detach().cpu().float().unbind(dim=1)
        axes.scatter(x.numpy(), y.numpy(), s=size, color=color, alpha=0.7, linewidths=0, label=label)
    axes.legend(loc="upper right")
