"""Every option of a training run: its name, type, default, help text and whether a resumed run may change it.

The command line, ``--config`` files, config.json and the printed options are all made from the fields of `Config`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wgan_fast.nn.orthogonal_regularization import Form
from wgan_fast.nn.spectral_norm import Convolution
from wgan_fast.training.data.sets import Data, LabelledData, sample_shape_of
from wgan_fast.training.errors import UserError
from wgan_fast.training.models.pairs import Architecture, CriticNorm, default_architecture, default_width
from wgan_fast.training.option import (
    AT_LEAST_0,
    AT_LEAST_1,
    LEFT_OUT,
    NOT_NEGATIVE,
    POSITIVE,
    flag,
    option,
    options_of,
)
from wgan_fast.training.step.losses import LossName
from wgan_fast.training.step.precision import AUTOCAST, NEEDS_CUDA, PrecisionName

ConstraintName = Literal[
    "none", "clip", "gp", "lp", "r1", "r2", "r1r2", "dragan", "spectral", "orthogonal", "lipschitz"
]
OptimizerName = Literal["rmsprop", "adam"]
GraphMode = Literal["auto", "on", "off"]
OnNonfinite = Literal["stop", "restore"]
RecipeName = Literal["tuned", "wgan", "wgan-gp", "sn-gan", "r3gan"]
GammaDecay = Literal["none", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options of a run; every option has a value once the config is built.

    The default of an option depends on the options given: see `defaults_for`. ``Config(data="digits")`` has the
    defaults for the digits; without ``data`` and ``sample_shape`` the config is for your own samples, points in the
    plane. For your own samples of another shape, pass ``sample_shape``::

        Config(constraint="gp", iterations=20, latent_dim=8)
        Config(constraint="clip", sample_shape=(3, 32, 32))

    ``dataclasses.replace`` changes the options it is given and no others, even if their defaults would differ.

    Raises:
        UserError: a value of the wrong type or out of range, or options that contradict each other; the message names
            the option.
    """

    data: str = option(
        "samples",
        "digits, photos, 8gaussians, 25gaussians, swissroll, mnist, cifar10, folder:PATH or npz:PATH.",
        group="data",
    )
    conditional: bool = option(False, "Train on classes, to sample from each of them; needs labelled data.")
    image_size: int = option(32, "Side of the images in pixels.", check=AT_LEAST_1, only=("data", "photos", "folder"))
    data_root: str | None = option(
        None, "Folder where torchvision keeps its data sets.", only=("data", "mnist", "cifar10"), resumable=True
    )
    sample_shape: tuple[int, ...] = option(
        LEFT_OUT,
        "Shape of one sample.",
        check=(lambda shape: min(shape, default=0) >= 1, "dimensions of at least 1"),
        hidden=True,
    )
    num_classes: int = option(
        0, "Number of classes of a conditional run, set when the data is loaded.", check=AT_LEAST_0, hidden=True
    )

    recipe: RecipeName = option(
        "tuned",
        "Source of the defaults: tuned (to the data), or the numbers of a paper whatever the data: wgan, wgan-gp, "
        "sn-gan, r3gan.",
        group="constraint",
    )
    constraint: ConstraintName = option(
        LEFT_OUT,
        "none, clip (weight clipping), gp (gradient penalty), lp (one-sided gradient penalty), r1, r2, r1r2 "
        "(both), dragan, spectral (spectral normalization), orthogonal (regularization), or lipschitz (1-Lipschitz "
        "layers).",
    )
    clip_value: float = option(
        LEFT_OUT,
        "Bound c: every weight of the critic is clipped to [-c, c].",
        check=POSITIVE,
        only=("constraint", "clip"),
    )
    lambda_gp: float = option(
        LEFT_OUT, "Weight of the penalty.", check=NOT_NEGATIVE, only=("constraint", "gp", "lp", "dragan")
    )
    gamma: float = option(
        LEFT_OUT, "Twice the weight of the penalty.", check=NOT_NEGATIVE, only=("constraint", "r1", "r2", "r1r2")
    )
    gamma_decay: GammaDecay = option(
        LEFT_OUT,
        "How gamma falls to --gamma-final over the run: none, linear or cosine.",
        only=("constraint", "r1", "r2", "r1r2"),
    )
    gamma_final: float = option(
        LEFT_OUT, "Gamma at the end of its decay.", check=NOT_NEGATIVE, only=("gamma_decay", "linear", "cosine")
    )
    lazy: int = option(
        1,
        "Critic steps per penalty, which is weighted by their number.",
        check=AT_LEAST_1,
        only=("constraint", "gp", "lp", "r1", "r2", "r1r2", "dragan"),
    )
    lambda_orthogonal: float = option(
        LEFT_OUT, "Weight of the regularization.", check=NOT_NEGATIVE, only=("constraint", "orthogonal")
    )
    orthogonal_form: Form = option(
        "full",
        "full (orthonormal weights) or off-diagonal (only the angles between filters).",
        only=("constraint", "orthogonal"),
    )
    spectral_convolution: Convolution = option(
        "matrix",
        "Norm of a convolution: of its kernel as a matrix, or of the operator.",
        only=("constraint", "spectral"),
    )
    loss: LossName = option(
        LEFT_OUT,
        "wgan; the standard GAN's: gan (non-saturating), gan-minimax (saturating); or relativistic (scores of pairs).",
    )

    architecture: Architecture = option(
        LEFT_OUT, "mlp, pyramid, conv8 (8x8 images), dcgan (32x32 or 64x64), or resnet (32x32).", group="networks"
    )
    width: int = option(LEFT_OUT, "Hidden units of the mlp and pyramid, base channels of the others.", check=AT_LEAST_1)
    latent_dim: int = option(LEFT_OUT, "Dimension of the generator's noise.", check=AT_LEAST_1)
    critic_norm: CriticNorm = option(
        LEFT_OUT, "Normalization in the critic of dcgan: none or batch.", only=("architecture", "dcgan")
    )

    iterations: int = option(
        LEFT_OUT,
        "Generator iterations, each after n_critic critic steps.",
        group="optimization",
        check=AT_LEAST_1,
        resumable=True,
    )
    seed: int = option(0, "Seed of the initial weights, the order of the data and the noise.")
    optimizer: OptimizerName = option(LEFT_OUT, "rmsprop or adam.")
    learning_rate: float = option(LEFT_OUT, "Learning rate of both networks.", check=POSITIVE)
    betas: tuple[float, float] = option(
        LEFT_OUT,
        "Decay rates of Adam's averages.",
        check=(lambda betas: all(0 <= beta < 1 for beta in betas), "two numbers in [0, 1)"),
        only=("optimizer", "adam"),
    )
    lr_decay: bool = option(LEFT_OUT, "Lower the learning rate linearly to 0 over the run.")
    batch_size: int = option(LEFT_OUT, "Real samples per critic step, and as many generated ones.", check=AT_LEAST_1)
    n_critic: int = option(LEFT_OUT, "Critic steps per generator iteration.", check=AT_LEAST_1)
    critic_burst: bool = option(LEFT_OUT, "Take 100 critic steps in the first 25 iterations and in every 500th.")
    ema_decay: float = option(
        LEFT_OUT,
        "Decay of the generator's moving average, which samples are drawn from; 0 for none.",
        check=(lambda decay: 0 <= decay < 1, "in [0, 1)"),
    )

    device: str = option("cpu", "Where to train: cpu, cuda or cuda:INDEX.", group="machine", resumable=True)
    precision: PrecisionName = option(
        "auto",
        "Matrix products: auto (torch's own settings: on CUDA, TF32 in convolutions), fp32 (IEEE throughout, on CUDA "
        "slower than stock PyTorch), tf32, bf16 or fp16; weights stay in fp32.",
    )
    channels_last: bool = option(LEFT_OUT, "Store images with the channels innermost; the default where it is faster.")
    graph: GraphMode = option(
        "auto", "Replay iterations as CUDA graphs: auto (where possible), on or off.", resumable=True
    )

    log_every: int = option(
        10, "Iterations between two lines of metrics.jsonl.", group="files", check=AT_LEAST_1, resumable=True
    )
    checkpoint_every: int = option(500, "Iterations between two checkpoints.", check=AT_LEAST_1, resumable=True)
    sample_every: int = option(
        500, "Iterations between two pictures in samples/; 0 for none.", check=AT_LEAST_0, resumable=True
    )
    tensorboard: bool = option(False, "Also write TensorBoard's event files.", resumable=True)
    keep_checkpoints: int = option(
        2, "Newest checkpoints to keep, besides the best one.", check=AT_LEAST_1, resumable=True
    )
    on_nonfinite: OnNonfinite = option(
        "stop", "At NaN: stop, or restore a checkpoint and halve the learning rate.", resumable=True
    )

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not LEFT_OUT}
        given = {name: options_of(Config)[name].read(value, flag(name)) for name, value in given.items()}
        for name, value in defaults_for(given).items():
            object.__setattr__(self, name, value)
        _check_together(self)

    def matched_with(self, data: Data) -> Config:
        """The config with the name and the number of classes of the data, which must be of its shape."""
        classes = data.num_classes if self.conditional and isinstance(data, LabelledData) else 0
        if self.conditional and classes < 2:
            raise UserError(f"--conditional: {data.name} has no labels of at least 2 classes to train on")
        if self.num_classes not in (0, classes):
            raise UserError(f"{data.name} has {classes} classes, but the run was made for {self.num_classes}")
        if self.sample_shape != data.sample_shape:
            raise UserError(
                f"the config is for samples of shape {self.sample_shape}, but those of {data.name} have shape "
                f"{data.sample_shape}: Config(sample_shape={data.sample_shape}) has the defaults for them"
            )
        return dataclasses.replace(self, data=data.name, num_classes=classes)


RECIPES: dict[RecipeName, dict[str, Any]] = {
    "tuned": {},
    "wgan": {"constraint": "clip", "loss": "wgan", "clip_value": 0.01, "batch_size": 64, "n_critic": 5}
    | {"critic_burst": True, "optimizer": "rmsprop", "learning_rate": 5e-5},
    "wgan-gp": {"constraint": "gp", "loss": "wgan", "lambda_gp": 10.0, "batch_size": 64, "n_critic": 5}
    | {"optimizer": "adam", "learning_rate": 1e-4, "betas": (0.0, 0.9)},
    "sn-gan": {"constraint": "spectral", "loss": "gan", "batch_size": 64, "n_critic": 1}
    | {"optimizer": "adam", "learning_rate": 2e-4, "betas": (0.5, 0.999)},
    "r3gan": {"constraint": "r1r2", "loss": "relativistic", "gamma": 1.0, "gamma_decay": "cosine"}
    | {"batch_size": 64, "n_critic": 1, "optimizer": "adam", "learning_rate": 2e-4, "betas": (0.0, 0.99)},
}
"""The defaults that each recipe sets: Arjovsky et al. 2017, algorithm 1; Gulrajani et al. 2017, algorithm 1; Miyato
et al. 2018, table 1, setting C; Huang et al. 2024 (R3GAN), with the gamma of its smallest data set, StackedMNIST, as a
larger one depends on the data."""


def defaults_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options: those given, then those of the recipe, then the defaults for this data and constraint.

    The defaults are the papers'. Arjovsky et al. 2017, algorithm 1: RMSprop 5e-5, c = 0.01, n_critic 5, batch
    64, the burst. Gulrajani et al. 2017, algorithm 1: Adam 1e-4 with betas (0, 0.9), lambda 10, n_critic 5,
    batch 64; on 2-D data betas (0.5, 0.9), lambda 0.1, batch 256, three hidden layers of 512, latent_dim 2;
    for the ResNet 2e-4, falling linearly to 0.

    Mescheder et al. 2018, section 5: gamma 10, with the standard GAN's loss, which is also the default for DRAGAN and
    for no constraint at all. Brock et al. 2019, section 3.1: orthogonal regularization of 1e-4 with the standard GAN's
    loss; under the Wasserstein loss, which grows with the critic's scale without a bound, 1e-4 has no effect, and the
    default is 1.

    They differ from the papers for the built-in data, where 100 000 iterations are cut to a minute or two on two
    cores:

    - ``digits``: 1500 iterations of Adam 5e-4 with betas (0.5, 0.9), latent_dim 32, perceptrons 384 wide, which
      drew better 8x8 digits in that time than convolutions did. Under clip, RMSprop 1e-3, c = 0.05 and 256 wide:
      the critic of the paper's 5e-5 and 0.01 is still flat after so few steps. The average of the weights is
      over about 100 iterations, as it is for 2-D data.
    - 2-D data: 500 iterations, of Adam 5e-4 under a penalty. Under clip the paper's values are kept, for which 500
      iterations are too few: weight clipping is slow here (Gulrajani et al. 2017, figure 2).
    - ``photos``: 2000 iterations. Other images: 20 000; no paper fixes a number for them.
    - Samples are drawn from the moving average of the generator (Karras et al. 2018), which neither paper has.

    Args:
        given: the options given, and those of a fixed default.
    """
    known = {"constraint": "gp", **RECIPES[given["recipe"]], **given}
    if "sample_shape" not in known:
        known["sample_shape"] = sample_shape_of(known["data"], known["image_size"])
    known.setdefault("architecture", default_architecture(known["sample_shape"]))
    known.setdefault("loss", "gan" if known["constraint"] in ("none", "r1", "r2", "r1r2", "dragan") else "wgan")
    return {**_tuned(known), **known}


def _tuned(known: Mapping[str, Any]) -> dict[str, Any]:
    clip = known["constraint"] == "clip"
    architecture, shape = known["architecture"], known["sample_shape"]
    faster_channels_last = known["precision"] in AUTOCAST or not known["device"].startswith("cuda")
    values: dict[str, Any] = {
        "iterations": 20_000,
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
        "gamma_decay": "none",
        "gamma_final": 0.1 * known.get("gamma", 10.0),
        "lambda_orthogonal": 1.0 if known["loss"] == "wgan" else 1e-4,
        "ema_decay": 0.999,
        "channels_last": len(shape) == 3 and architecture not in ("mlp", "pyramid") and faster_channels_last,
    }
    if architecture == "resnet" and not clip:
        values |= {"learning_rate": 2e-4, "lr_decay": True}
    if shape == (2,):
        values |= {"latent_dim": 2, "betas": (0.5, 0.9), "lambda_gp": 0.1, "batch_size": 256}
        values |= {"iterations": 500, "learning_rate": 5e-5 if clip else 5e-4, "ema_decay": 0.99}
    elif known["data"] == "digits":
        values |= {"iterations": 1500, "latent_dim": 32, "betas": (0.5, 0.9), "ema_decay": 0.99}
        values |= {"learning_rate": 1e-3, "clip_value": 0.05} if clip else {"learning_rate": 5e-4}
        if architecture != "conv8":
            values["width"] = 256 if clip else 384
    elif known["data"] == "photos":
        values |= {"iterations": 2000}
    return values


def _check_together(config: Config) -> None:
    if config.constraint not in ("none", "clip", "orthogonal") and config.critic_norm == "batch":
        raise UserError(
            f"--critic-norm batch contradicts --constraint {config.constraint}: "
            "the constraint is defined per sample, and batch normalization mixes samples"
        )
    if config.precision in NEEDS_CUDA and not config.device.startswith("cuda"):
        reason = NEEDS_CUDA[config.precision]
        raise UserError(f"--precision {config.precision} needs --device cuda, got --device {config.device}: {reason}")
    if config.graph == "on" and not config.device.startswith("cuda"):
        raise UserError(f"--graph on needs --device cuda, got --device {config.device}: graphs are NVIDIA's")
    if config.graph == "on" and config.precision == "fp16":
        raise UserError("--graph on contradicts --precision fp16: loss scaling synchronises in every step")
    if config.channels_last and len(config.sample_shape) != 3:
        raise UserError(f"--channels-last is for images; these samples have shape {config.sample_shape}")


def check_resumable(saved: Config, wanted: Config) -> None:
    """Refuse a config that differs from a run's in an option that a resumed run cannot change."""
    for name, each in options_of(Config).items():
        had, value = getattr(saved, name), getattr(wanted, name)
        if value != had and not each.resumable:
            told = f"{flag(name)} {value}"
            if isinstance(value, bool):
                told = flag(name if value else f"no_{name}")
            raise UserError(f"{told} cannot change in a resumed run, which has {had}")
