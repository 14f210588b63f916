"""``--config``: what a file may say, and one line, with the file and the key, for what it may not."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from wgan_fast.cli.options import read_config_file
from wgan_fast.training import Config, UserError
from wgan_fast.training.option import options_of


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    expected = {
        "data": "8gaussians",
        "constraint": "none",
        "learning_rate": 5e-5,
        "lambda_gp": 10.0,
        "betas": (0.5, 0.9),
        "lr_decay": True,
        "iterations": 1000,
        "seed": 2**53 + 1,
    }
    (tmp_path / "a.yaml").write_text(
        "# a comment\ndata: 8gaussians\nconstraint: none\nlearning-rate: 5e-5\nlambda_gp: 10\nbetas: [0.5, 0.9]\n"
        "lr-decay: yes\niterations: 1e3\nseed: 9007199254740993\ncritic_norm: null\n"
    )
    of_a_run = {"critic_norm": None, "wgan_fast": "0.1.0", "num_classes": 0, "sample_shape": [2]}
    (tmp_path / "a.json").write_text(json.dumps({**expected, **of_a_run}))
    for name in ("a.yaml", "a.json"):
        options = read_config_file(tmp_path / name)
        assert options == expected
        assert isinstance(options["lambda_gp"], float)
        assert isinstance(options["iterations"], int)
    (tmp_path / "windows.json").write_bytes(b'\xef\xbb\xbf{"seed": 3}')
    assert read_config_file(tmp_path / "windows.json") == {"seed": 3}
    (tmp_path / "empty.yaml").write_text("")
    assert read_config_file(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize("word", ["on", "off"])
def test_a_bare_on_or_off_is_a_choice_of_that_name(tmp_path: Path, word: str) -> None:
    """YAML itself reads both as booleans."""
    (tmp_path / "a.yaml").write_text(f"graph: {word}")
    assert read_config_file(tmp_path / "a.yaml") == {"graph": word}


def test_every_config_reads_back(tmp_path: Path) -> None:
    for config in (Config(data="digits"), Config(data="photos", constraint="clip")):
        (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
        assert Config(**read_config_file(tmp_path / "config.json")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iterations: many", "iterations must be an integer, got 'many'"),
        ("iterations: 2.5", "iterations must be an integer, got 2.5"),
        ("iterations: true", "iterations must be an integer, got True"),
        ("iterations: [3]", r"iterations must be an integer, got \[3\]"),
        ("learning_rate: fast", "learning_rate must be a number, got 'fast'"),
        ("learning_rate: .nan", "learning_rate must be a number that is finite, got nan"),
        ("lr_decay: 1", "lr_decay must be true or false, got 1"),
        ("conditional: null", "conditional must be true or false, got None"),
        ("betas: 0.5", "betas must be 2 numbers, got 0.5"),
        ("betas: [0.5, a]", r"betas must be 2 numbers, got \[0.5, 'a'\]"),
        ("data: 8", "data must be text, got 8"),
        ("constraint: gpp", "constraint must be one of none, clip, gp, .*, got gpp; did you mean gp"),
        ("iterations: 0", "iterations must be at least 1, got 0"),
        ("architecture: [mlp]", "architecture must be one of mlp"),
        ("lambda: 3", "lambda is not an option of a run; did you mean lambda_gp"),
        ("out: x", "out is not an option of a run$"),
        ("- iterations", "expected a map from options to values"),
        ("just words", "expected a map from options to values"),
        ("n_critic: 3\nn-critic: 4", "n_critic is given twice"),
        ("a: [1", "is not YAML"),
        ("data: 2020-13-45", "is not YAML \\(month must be"),
        ("[" * 5000, "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"--config .*run\.yaml: {message}"):
        read_config_file(path)


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_config_file(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_config_file(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match=r"bytes\.yaml: (cannot be read|is not YAML)"):
        read_config_file(tmp_path / "bytes.yaml")
    for text in ("{", "[" * 100_000, "9" * 5000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UserError, match=r"a\.json: (is not JSON|expected a map)"):
            read_config_file(tmp_path / "a.json")


def test_every_option_is_in_one_group() -> None:
    listed = [option for option in options_of(Config).values() if not option.hidden]
    names = [field.name for field in dataclasses.fields(Config)]
    assert [option.name for option in listed] == [n for n in names if n not in ("sample_shape", "num_classes")]
    groups = [option.group for option in listed]
    assert list(dict.fromkeys(groups)) == ["data", "constraint", "networks", "optimization", "machine", "files"]
    assert groups == sorted(groups, key=groups.index)


def test_the_help_of_a_choice_lists_it() -> None:
    for option in options_of(Config).values():
        for choice in get_args(option.type) if get_origin(option.type) is Literal else ():
            assert choice in re.findall(r"[\w-]+", option.text), f"{option.name}: {choice}"
        assert option.text.endswith(".")


def test_what_means_nothing_to_a_run_is_not_shown() -> None:
    from wgan_fast.cli.console import described

    told = described(Config(data="digits", constraint="r1"))
    assert told["constraint"] == [
        "recipe tuned",
        "constraint r1",
        "gamma 10",
        "gamma-decay none",
        "lazy 1",
        "loss gan",
    ]
    assert told["data"] == ["data digits", "conditional no"]
    assert described(Config(data="photos"))["data"] == ["data photos", "conditional no", "image-size 32"]
    assert "lambda-gp 10" in described(Config(lambda_gp=10.0))["constraint"]
