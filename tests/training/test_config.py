"""Presets and checks: the papers' numbers as documented, and one line of error per bad value."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wgan_fast.training import UserError
from wgan_fast.training.config import RECIPES, Config, check_resumable
from wgan_fast.training.data.sets import split
from wgan_fast.training.option import LEFT_OUT, options_of


def _chosen(config: Config, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in names)


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
    assert _chosen(config, *names) == ("rmsprop", 5e-5, 0.01, 5, 64, True, "batch")


@pytest.mark.parametrize("constraint", ["gp", "lp"])
def test_gradient_penalties_have_the_papers_defaults(constraint: Any) -> None:
    names = ("optimizer", "learning_rate", "betas", "lambda_gp", "n_critic", "batch_size", "critic_burst")
    config = Config(data="photos", constraint=constraint)
    assert _chosen(config, *names) == ("adam", 1e-4, (0.0, 0.9), 10.0, 5, 64, False)
    assert _chosen(config, "architecture", "critic_norm", "lr_decay") == ("dcgan", "none", False)


def test_toy_data_has_the_papers_networks() -> None:
    names = ("architecture", "width", "latent_dim", "betas", "lambda_gp", "batch_size")
    assert _chosen(Config(data="8gaussians"), *names) == ("mlp", 512, 2, (0.5, 0.9), 0.1, 256)


@pytest.mark.parametrize(
    ("constraint", "loss"),
    [("none", "gan"), ("r1", "gan"), ("r2", "gan"), ("dragan", "gan"), ("spectral", "wgan"), ("lipschitz", "wgan")],
)
def test_the_loss_is_that_of_the_constraints_paper(constraint: Any, loss: str) -> None:
    assert _chosen(Config(constraint=constraint), "loss", "optimizer", "gamma") == (loss, "adam", 10.0)
    assert Config(constraint=constraint, loss="gan-minimax").loss == "gan-minimax"


def test_orthogonal_regularisation_outgrows_an_unbounded_loss() -> None:
    assert Config(constraint="orthogonal", loss="gan").lambda_orthogonal == 1e-4
    assert _chosen(Config(constraint="orthogonal"), "loss", "lambda_orthogonal") == ("wgan", 1.0)


def test_resnet_decays_its_learning_rate() -> None:
    config = Config(data="cifar10", architecture="resnet")
    names = ("learning_rate", "lr_decay", "latent_dim", "width")
    assert _chosen(config, *names) == (2e-4, True, 128, 128)


def test_convolutions_on_digits_are_not_as_wide_as_perceptrons() -> None:
    widths = {name: Config(data="digits", architecture=name).width for name in ("mlp", "pyramid", "conv8")}
    assert widths == {"mlp": 384, "pyramid": 384, "conv8": 16}
    assert Config(data="digits", architecture="conv8", constraint="clip").width == 16
    assert Config(data="digits", constraint="clip").width == 256


def test_what_was_asked_for_wins_and_nothing_stays_open() -> None:
    config = Config(data="digits", learning_rate=0.5, betas=(0.1, 0.2), critic_burst=True, ema_decay=0.0, n_critic=2)
    assert _chosen(config, "learning_rate", "betas", "n_critic") == (0.5, (0.1, 0.2), 2)
    assert config.critic_burst
    assert config.ema_decay == 0
    values = dataclasses.asdict(config)
    assert [name for name, value in values.items() if value is None or value is LEFT_OUT] == ["data_root"]
    assert Config(**values) == config
    saved = json.loads(json.dumps(values))
    assert Config(**{n: tuple(v) if isinstance(v, list) else v for n, v in saved.items()}) == config


def test_samples_of_ones_own_are_points_unless_their_shape_is_said() -> None:
    """What README's trainer of its own networks has always been given."""
    names = ("data", "sample_shape", "lambda_gp", "batch_size", "learning_rate", "betas", "ema_decay")
    own = Config(constraint="gp", iterations=20, latent_dim=8)
    assert _chosen(own, *names) == ("samples", (2,), 0.1, 256, 5e-4, (0.5, 0.9), 0.99)
    images = Config(sample_shape=(3, 32, 32))
    assert _chosen(images, *names) == ("samples", (3, 32, 32), 10.0, 64, 1e-4, (0.0, 0.9), 0.999)


def test_numbers_are_of_their_options_type() -> None:
    # Types that mypy refuses: what JSON, NumPy and torch give, and callers pass on.
    config = Config(iterations=1e3, betas=[0, 0.9], sample_shape=torch.Size([3]), batch_size=np.int64(8), lambda_gp=1)  # type: ignore[arg-type]
    values = _chosen(config, "iterations", "betas", "sample_shape", "batch_size", "lambda_gp")
    assert json.dumps(values) == "[1000, [0.0, 0.9], [3], 8, 1.0]"
    assert type(config.sample_shape) is tuple


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_of_a_run_is_infinite(value: float) -> None:
    numbers = [each for each in options_of(Config).values() if each.type in (int, float)]
    assert len(numbers) > 15
    for each in numbers:
        with pytest.raises(UserError, match=f"{each.name} must be"):
            each.read(value, each.name)


def test_data_of_another_shape_is_refused() -> None:
    images = split("mine", torch.zeros(10, 1, 6, 6))
    with pytest.raises(UserError, match=r"shape \(2,\), but those of mine have shape \(1, 6, 6\)"):
        Config().matched_with(images)
    assert Config(sample_shape=(1, 6, 6)).matched_with(images).data == "mine"


def test_the_shape_of_an_archive_is_read_from_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=np.arange(5), images=np.zeros((5, 32, 32, 3), np.uint8))
    config = Config(data=f"npz:{tmp_path / 'a.npz'}")
    assert _chosen(config, "sample_shape", "architecture") == ((3, 32, 32), "dcgan")


def test_replacing_an_option_leaves_the_others() -> None:
    replaced = dataclasses.replace(Config(data="digits"), constraint="clip")
    assert (replaced.optimizer, replaced.critic_burst) == ("adam", False)
    assert Config(data="digits", constraint="clip").optimizer == "rmsprop"


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "tuned"])
def test_a_recipe_is_its_papers_numbers_whatever_the_data(recipe: Any) -> None:
    for data in ("digits", "8gaussians", "photos"):
        config = Config(data=data, recipe=recipe)
        assert {name: getattr(config, name) for name in RECIPES[recipe]} == RECIPES[recipe]
        assert Config(data=data, recipe=recipe, n_critic=7).n_critic == 7


def test_a_resumed_run_may_change_what_does_not_make_it_another() -> None:
    saved = Config(data="digits")
    check_resumable(saved, dataclasses.replace(saved, iterations=9999, device="cuda", log_every=3, tensorboard=True))
    with pytest.raises(UserError, match="--no-critic-burst cannot change in a resumed run, which has True"):
        check_resumable(Config(critic_burst=True), Config(critic_burst=False))
    with pytest.raises(UserError, match=r"--width 8 cannot change in a resumed run, which has 384"):
        check_resumable(saved, dataclasses.replace(saved, width=8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "--iterations must be at least 1, got 0"),
        ({"batch_size": -3}, "--batch-size must be at least 1, got -3"),
        ({"n_critic": 0}, "--n-critic must be at least 1"),
        ({"log_every": 0}, "--log-every must be at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive and finite"),
        ({"learning_rate": float("nan")}, "--learning-rate must be a number that is finite, got nan"),
        ({"clip_value": float("inf")}, "--clip-value must be a number that is finite, got inf"),
        ({"gamma": -1.0}, "--gamma must be finite and not negative"),
        ({"lambda_orthogonal": float("inf")}, "--lambda-orthogonal must be a number that is finite, got inf"),
        ({"constraint": "hope"}, "--constraint must be one of none, clip, gp, lp, r1, .*, got hope"),
        ({"loss": "hinge"}, "--loss must be one of wgan, gan, gan-minimax, relativistic, got hinge"),
        ({"constraint": "spectral", "critic_norm": "batch"}, "--critic-norm batch contradicts --constraint spectral"),
        ({"lambda_gp": -1.0}, "--lambda-gp must be finite and not negative"),
        ({"betas": (0.5, 1.0)}, r"--betas must be two numbers in \[0, 1\)"),
        ({"n_critic": None}, "--n-critic must be an integer, got None; leave it out for the default"),
        ({"iterations": "abc"}, "--iterations must be an integer, got 'abc'"),
        ({"iterations": 2.5}, "--iterations must be an integer, got 2.5"),
        ({"seed": 2**63}, "--seed must be an integer of 64 bits, got 9223372036854775808"),
        ({"conditional": "yes"}, "--conditional must be true or false, got 'yes'"),
        ({"betas": (0.5,)}, r"--betas must be 2 numbers, got \(0.5,\)"),
        ({"data_root": 3}, "--data-root must be text, got 3"),
        ({"sample_shape": 3}, "--sample-shape must be integers, got 3"),
        ({"sample_shape": ()}, r"--sample-shape must be dimensions of at least 1, got \(\)"),
        ({"recipe": "wgangp"}, "--recipe must be one of tuned, wgan, .*, got wgangp; did you mean wgan-gp"),
        ({"sample_every": -1}, "--sample-every must be at least 0, got -1"),
        ({"ema_decay": 1.0}, r"--ema-decay must be in \[0, 1\)"),
        ({"critic_norm": "batch"}, "--critic-norm batch contradicts --constraint gp"),
    ],
)
def test_bad_values_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**{"data": "digits", **options})
