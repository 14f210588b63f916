"""Presets and checks: the papers' numbers where they are promised, and one sentence for each bad value."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from wgan_fast.training import UserError
from wgan_fast.training.config import Config, Resolved, resolve

IMAGE, POINTS = (3, 32, 32), (2,)


def _chosen(config: Config, shape: tuple[int, ...], *names: str) -> tuple[Any, ...]:
    resolved = resolve(config, shape)
    return tuple(getattr(resolved, name) for name in names)


def test_weight_clipping_has_the_papers_defaults() -> None:
    names = (
        "optimizer",
        "learning_rate",
        "clip_value",
        "n_critic",
        "batch_size",
        "critic_burst",
        "critic_norm",
    )
    config = Config(data="photos", constraint="clip")
    assert _chosen(config, IMAGE, *names) == ("rmsprop", 5e-5, 0.01, 5, 64, True, "batch")


@pytest.mark.parametrize("constraint", ["gp", "lp"])
def test_gradient_penalties_have_the_papers_defaults(constraint: Any) -> None:
    names = ("optimizer", "learning_rate", "betas", "lambda_gp", "n_critic", "batch_size", "critic_burst")
    config = Config(data="photos", constraint=constraint)
    assert _chosen(config, IMAGE, *names) == ("adam", 1e-4, (0.0, 0.9), 10.0, 5, 64, False)
    assert _chosen(config, IMAGE, "architecture", "critic_norm", "lr_decay") == ("dcgan", "none", False)


def test_toy_data_has_the_papers_networks() -> None:
    names = ("architecture", "width", "latent_dim", "betas", "lambda_gp", "batch_size")
    assert _chosen(Config(data="8gaussians"), POINTS, *names) == ("mlp", 512, 2, (0.5, 0.9), 0.1, 256)


@pytest.mark.parametrize(
    ("constraint", "loss"),
    [("none", "gan"), ("r1", "gan"), ("r2", "gan"), ("dragan", "gan"), ("spectral", "wgan"), ("lipschitz", "wgan")],
)
def test_the_loss_is_that_of_the_constraints_paper(constraint: Any, loss: str) -> None:
    assert _chosen(Config(constraint=constraint), IMAGE, "loss", "optimizer", "gamma") == (loss, "adam", 10.0)
    assert _chosen(Config(constraint=constraint, loss="gan-minimax"), IMAGE, "loss") == ("gan-minimax",)


def test_orthogonal_regularisation_outgrows_an_unbounded_loss() -> None:
    assert _chosen(Config(constraint="orthogonal", loss="gan"), IMAGE, "lambda_orthogonal") == (1e-4,)
    assert _chosen(Config(constraint="orthogonal"), IMAGE, "loss", "lambda_orthogonal") == ("wgan", 1.0)


def test_resnet_decays_its_learning_rate() -> None:
    config = Config(data="cifar10", architecture="resnet")
    names = ("learning_rate", "lr_decay", "latent_dim", "width")
    assert _chosen(config, IMAGE, *names) == (2e-4, True, 128, 128)


def test_what_was_asked_for_wins_and_nothing_stays_open() -> None:
    config = Config(learning_rate=0.5, betas=(0.1, 0.2), critic_burst=True, ema_decay=0.0, n_critic=2)
    resolved = resolve(config, (1, 8, 8))
    assert (resolved.learning_rate, resolved.betas, resolved.n_critic) == (0.5, (0.1, 0.2), 2)
    assert resolved.critic_burst
    assert resolved.ema_decay == 0
    values = dataclasses.asdict(resolved)
    assert [name for name, value in values.items() if value is None] == ["data_root"]
    assert resolve(resolved, (1, 8, 8)) == resolved
    saved = json.loads(json.dumps(values))
    assert Resolved(**{**saved, "betas": tuple(saved["betas"])}) == resolved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "--iterations must be at least 1, got 0"),
        ({"batch_size": -3}, "--batch-size must be at least 1, got -3"),
        ({"n_critic": 0}, "--n-critic must be at least 1"),
        ({"log_every": 0}, "--log-every must be at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive and finite"),
        ({"learning_rate": float("nan")}, "--learning-rate must be positive and finite"),
        ({"clip_value": float("inf")}, "--clip-value must be positive and finite"),
        ({"gamma": -1.0}, "--gamma must be finite and not negative"),
        ({"lambda_orthogonal": float("inf")}, "--lambda-orthogonal must be finite and not negative"),
        ({"constraint": "hope"}, "--constraint must be one of none, clip, gp, lp, r1, .*, got hope"),
        ({"loss": "hinge"}, "--loss must be one of wgan, gan, gan-minimax, got hinge"),
        ({"constraint": "spectral", "critic_norm": "batch"}, "--critic-norm batch contradicts --constraint spectral"),
        ({"lambda_gp": -1.0}, "--lambda-gp must be finite and not negative"),
        ({"betas": (0.5, 1.0)}, r"--betas must be two numbers in \[0, 1\)"),
        ({"ema_decay": 1.0}, r"--ema-decay must be in \[0, 1\)"),
        ({"critic_norm": "batch"}, "--critic-norm batch contradicts --constraint gp"),
    ],
)
def test_bad_values_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(Config(**options), (1, 8, 8))
