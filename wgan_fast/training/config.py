"""Every option of a training run. The command line and config.json are made from this dataclass."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wgan_fast.nn.orthogonal_regularization import Form
from wgan_fast.nn.spectral_norm import Convolution
from wgan_fast.training.errors import UserError
from wgan_fast.training.models.pairs import Architecture, CriticNorm, default_architecture, default_width
from wgan_fast.training.step.losses import LossName
from wgan_fast.training.step.precision import AUTOCAST, NEEDS_CUDA, PrecisionName

ConstraintName = Literal["none", "clip", "gp", "lp", "r1", "r2", "dragan", "spectral", "orthogonal", "lipschitz"]
OptimizerName = Literal["rmsprop", "adam"]
GraphMode = Literal["auto", "on", "off"]
OnNonfinite = Literal["stop", "restore"]


@dataclass(frozen=True)
class Config:
    """How to train. None means the default for this data and constraint, which config.json then holds."""

    data: str = "digits"
    """digits, photos, 8gaussians, 25gaussians, swissroll, mnist, cifar10, folder:PATH or npz:PATH."""
    constraint: ConstraintName = "gp"
    """none, clip (of weights), gp (gradient penalty), lp (its one-sided form), r1, r2, dragan, spectral,
    orthogonal, or lipschitz (layers that are so by construction)."""
    loss: LossName | None = None
    """wgan, or the standard GAN's: gan (non-saturating), gan-minimax (saturating)."""
    conditional: bool = False
    """Train on classes, to sample each of them: labelled data alone."""
    iterations: int | None = None
    """Generator iterations, each after n_critic critic steps."""
    seed: int = 0
    """Of the initial weights, the order of the data and the noise."""

    architecture: Architecture | None = None
    """mlp, pyramid, conv8 (8x8), dcgan (32x32, 64x64) or resnet (32x32)."""
    width: int | None = None
    """Hidden units of the mlp, base channels of the others."""
    latent_dim: int | None = None
    """Size of the noise that a sample is made from."""
    critic_norm: CriticNorm | None = None
    """none, or batch (normalisation) in DCGAN's critic."""

    optimizer: OptimizerName | None = None
    """rmsprop or adam."""
    learning_rate: float | None = None
    """Step size of both optimizers."""
    betas: tuple[float, float] | None = None
    """Adam's decay rates."""
    lr_decay: bool | None = None
    """Lower the learning rate linearly to 0 over the run."""
    batch_size: int | None = None
    """Real samples in a critic step, and as many generated ones."""
    n_critic: int | None = None
    """Critic steps in a generator iteration."""
    critic_burst: bool | None = None
    """100 critic steps in the first 25 iterations and every 500th."""
    clip_value: float | None = None
    """Of clip: every weight of the critic is clipped to [-c, c]."""
    lambda_gp: float | None = None
    """Weight of the penalty of gp, lp and dragan."""
    gamma: float | None = None
    """Twice the weight of the penalty of r1 and r2."""
    lambda_orthogonal: float | None = None
    """Weight of the penalty of orthogonal."""
    orthogonal_form: Form = "full"
    """full: orthonormal weights; off-diagonal: their filters' angles alone."""
    spectral_convolution: Convolution = "matrix"
    """Normalise a convolution as the matrix of its kernel, or as an operator."""
    ema_decay: float | None = None
    """Of the moving average that samples are drawn from; 0: none."""

    precision: PrecisionName = "fp32"
    """fp32, tf32, bf16 or fp16: arithmetic of products; weights stay fp32."""
    channels_last: bool | None = None
    """Keep the channels innermost; the default where it is faster: on a CPU, and in bf16 and fp16."""
    graph: GraphMode = "auto"
    """Replay iterations as CUDA graphs: auto (if possible), on or off."""

    image_size: int = 32
    """Side in pixels of the images of photos and folder:PATH."""
    data_root: str | None = None
    """Where torchvision keeps mnist and cifar10."""
    device: str = "cpu"
    """Where to train."""
    log_every: int = 10
    """Iterations between two lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Iterations between two checkpoints."""
    sample_every: int = 500
    """Iterations between two pictures in samples/; 0: none."""
    tensorboard: bool = False
    """Write TensorBoard's files into the run folder, too."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, besides the best one."""
    on_nonfinite: OnNonfinite = "stop"
    """At NaN: stop, or restore a checkpoint and halve the learning rate."""


@dataclass(frozen=True, kw_only=True)
class Resolved(Config):
    """A Config whose every option has a value, as `resolve` makes it and config.json keeps it.

    ``num_classes`` is the number of classes of a conditional run, 0 of another.
    """

    num_classes: int = 0
    iterations: int
    loss: LossName
    architecture: Architecture
    width: int
    latent_dim: int
    critic_norm: CriticNorm
    optimizer: OptimizerName
    learning_rate: float
    betas: tuple[float, float]
    lr_decay: bool
    batch_size: int
    n_critic: int
    critic_burst: bool
    clip_value: float
    lambda_gp: float
    gamma: float
    lambda_orthogonal: float
    ema_decay: float
    channels_last: bool


def resolve(config: Config, sample_shape: tuple[int, ...], num_classes: int = 0) -> Resolved:
    """Fill every None with the default for this data and constraint, and check every value.

    The defaults are the papers'. Arjovsky et al. 2017, algorithm 1: RMSprop 5e-5, c = 0.01, n_critic 5, batch
    64, the burst. Gulrajani et al. 2017, algorithm 1: Adam 1e-4 with betas (0, 0.9), lambda 10, n_critic 5,
    batch 64; on 2-D data betas (0.5, 0.9), lambda 0.1, batch 256, three hidden layers of 512, latent_dim 2;
    for the ResNet 2e-4, falling linearly to 0.

    Mescheder et al. 2018, section 5: gamma 10, with the standard GAN's loss, as DRAGAN has it, and no constraint at
    all. Brock et al. 2019, section 3.1: orthogonal regularisation of 1e-4 with the standard GAN's loss; under the
    Wasserstein loss, which grows with the critic's scale without a bound, 1e-4 holds nothing, and 1 is taken.

    They depart from the papers for the built-in data, where 100 000 iterations become the minute or two that a
    newcomer waits on two cores:

    - ``digits``: 1500 iterations of Adam 5e-4 with betas (0.5, 0.9), latent_dim 32, perceptrons 384 wide, which
      drew better 8x8 digits in that time than convolutions did. Under clip RMSprop 1e-3, c = 0.05 and 256 wide:
      the critic of the paper's 5e-5 and 0.01 is still flat after so few steps. The average of the weights is
      over about 100 iterations, as it is for 2-D data.
    - 2-D data: 500 iterations, of Adam 5e-4 under a penalty. Under clip the paper's values stay, and 500
      iterations are too few for them: weight clipping is slow here (Gulrajani et al. 2017, figure 2).
    - ``photos``: 2000 iterations. Other images: 20 000; no paper fixes a number for them.
    - Samples are drawn from the moving average of the generator (Karras et al. 2018), which neither paper has.

    Args:
        config: what was asked for.
        sample_shape: shape of one real sample.
        num_classes: classes of the data, 0 without labels.

    Returns:
        A config that resolves to itself.

    Raises:
        UserError: a value out of range, or options that contradict one another; the message names the option.
    """
    architecture = config.architecture or default_architecture(sample_shape)
    preset = _preset(config, architecture, sample_shape)
    chosen = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    resolved = Resolved(**{**preset, **chosen, "num_classes": num_classes if config.conditional else 0})
    _check(resolved, sample_shape)
    if config.conditional and num_classes < 2:
        raise UserError(f"--conditional: {config.data} has no labels of at least 2 classes to train on")
    if isinstance(config, Resolved) and config.num_classes != resolved.num_classes:
        raise UserError(f"{config.data} has {num_classes} classes now, and the run was made for {config.num_classes}")
    return resolved


def _preset(config: Config, architecture: Architecture, sample_shape: tuple[int, ...]) -> dict[str, Any]:
    clip = config.constraint == "clip"
    loss = config.loss or ("gan" if config.constraint in ("none", "r1", "r2", "dragan") else "wgan")
    preset: dict[str, Any] = {
        "loss": loss,
        "iterations": 20_000,
        "architecture": architecture,
        "width": default_width(architecture),
        "latent_dim": 128 if architecture == "resnet" else 100,
        "critic_norm": "batch" if clip and architecture == "dcgan" else "none",
        "optimizer": "rmsprop" if clip else "adam",
        "learning_rate": 5e-5 if clip else 1e-4,
        "betas": (0.0, 0.9),
        "lr_decay": False,
        "batch_size": 64,
        "n_critic": 5,
        "critic_burst": clip,
        "clip_value": 0.01,
        "lambda_gp": 10.0,
        "gamma": 10.0,
        "lambda_orthogonal": 1.0 if loss == "wgan" else 1e-4,
        "ema_decay": 0.999,
        "channels_last": len(sample_shape) == 3
        and architecture not in ("mlp", "pyramid")
        and (config.precision in AUTOCAST or not config.device.startswith("cuda")),
    }
    if architecture == "resnet" and not clip:
        preset |= {"learning_rate": 2e-4, "lr_decay": True}
    if sample_shape == (2,):
        preset |= {"latent_dim": 2, "betas": (0.5, 0.9), "lambda_gp": 0.1, "batch_size": 256}
        preset |= {"iterations": 500, "learning_rate": 5e-5 if clip else 5e-4, "ema_decay": 0.99}
    elif config.data == "digits":
        preset |= {"iterations": 1500, "latent_dim": 32, "betas": (0.5, 0.9), "ema_decay": 0.99}
        preset |= {"width": 384, "learning_rate": 5e-4}
        if clip:
            preset |= {"width": 256, "learning_rate": 1e-3, "clip_value": 0.05}
    elif config.data == "photos":
        preset |= {"iterations": 2000}
    return preset


def _check(config: Resolved, sample_shape: tuple[int, ...]) -> None:
    for name, kind in {
        "constraint": ConstraintName,
        "loss": LossName,
        "precision": PrecisionName,
        "graph": GraphMode,
    }.items():
        if getattr(config, name) not in get_args(kind):
            raise UserError(f"{option(name)} must be one of {', '.join(get_args(kind))}, got {getattr(config, name)}")
    at_least_one = (
        "iterations",
        "width",
        "latent_dim",
        "batch_size",
        "n_critic",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    )
    for name in at_least_one:
        if getattr(config, name) < 1:
            raise UserError(f"{option(name)} must be at least 1, got {getattr(config, name)}")
    if config.sample_every < 0:
        raise UserError(f"--sample-every must not be negative, got {config.sample_every}")
    for name in ("learning_rate", "clip_value"):
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{option(name)} must be positive and finite, got {value}")
    for name in ("lambda_gp", "gamma", "lambda_orthogonal"):
        value = getattr(config, name)
        if not (value >= 0 and math.isfinite(value)):
            raise UserError(f"{option(name)} must be finite and not negative, got {value}")
    if not all(0 <= beta < 1 for beta in config.betas):
        raise UserError(f"--betas must be two numbers in [0, 1), got {config.betas}")
    if not 0 <= config.ema_decay < 1:
        raise UserError(f"--ema-decay must be in [0, 1), got {config.ema_decay}")
    if config.constraint not in ("none", "clip", "orthogonal") and config.critic_norm == "batch":
        raise UserError(
            f"--critic-norm batch contradicts --constraint {config.constraint}: "
            "the constraint is defined for single samples, and batch normalisation mixes them"
        )
    if config.precision in NEEDS_CUDA and not config.device.startswith("cuda"):
        reason = NEEDS_CUDA[config.precision]
        raise UserError(f"--precision {config.precision} needs --device cuda, got --device {config.device}: {reason}")
    if config.graph == "on" and not config.device.startswith("cuda"):
        raise UserError(f"--graph on needs --device cuda, got --device {config.device}: graphs are NVIDIA's")
    if config.graph == "on" and config.precision == "fp16":
        raise UserError("--graph on contradicts --precision fp16: loss scaling waits for the device in every step")
    if config.channels_last and len(sample_shape) != 3:
        raise UserError(f"--channels-last is for images; these samples are of shape {sample_shape}")


def option(name: str) -> str:
    """The command line's spelling of a field."""
    return "--" + name.replace("_", "-")


def spelled(name: str, value: Any) -> str:
    """The field with its value as the command line has them."""
    if isinstance(value, bool):
        return option(name) if value else option(f"no_{name}")
    return f"{option(name)} {value}"
