"""The options of ``wgan-fast``: one dataclass per command, made from its arguments and from ``--config`` files.

argparse splits the arguments; names, types, texts and checks come from the fields of the dataclasses.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from wgan_fast.training.config import Config
from wgan_fast.training.errors import UserError, did_you_mean, require
from wgan_fast.training.models.pairs import Architecture
from wgan_fast.training.option import AT_LEAST_0, AT_LEAST_1, LEFT_OUT, Option, flag, option, options_of, shown_value
from wgan_fast.training.run.folder import read_config

CHECKPOINT = "Checkpoint to use: newest, best (nearest to held-out samples), or an iteration."
DEVICE = "Device to compute on; by default the device of the training."


@dataclass(kw_only=True)
class Train:
    """Train a WGAN, evaluate it, and write its figures into a run folder."""

    out: Path | None = option(None, "Run folder; by default runs/DATA-CONSTRAINT.", group="command")
    config: Path | None = option(None, "YAML or JSON file of options; the command line wins.")
    resume: bool = option(False, "Continue the run in that folder; --iterations may be raised.")
    checkpoint: str = option(
        "newest", "Checkpoint that --resume continues from: newest, best or an iteration; later ones are removed."
    )
    overwrite: bool = option(False, "Replace the run in that folder.")
    evaluate: bool = option(True, "Compare samples with held-out real ones at the end.")
    quiet: bool = option(False, "Print nothing but errors.")
    options: Config = option(MISSING, "How to train.", hidden=True)


@dataclass(kw_only=True)
class Sample:
    """Draw samples from a trained generator."""

    run: Path = option(MISSING, "Run folder.")
    out: Path | None = option(
        None,
        "A .png (a grid of images, or a plot of points) or a .npz (arrays samples, float32, and labels); by default "
        "samples.png.",
    )
    format: Literal["png", "npz"] | None = option(None, "png or npz, if --out has no such ending.")
    num: int = option(64, "Number of samples.", check=AT_LEAST_1)
    class_: int | None = option(None, "Class of all samples of a conditional run; by default classes take turns.")
    interpolate: int | None = option(
        None, "Draw this many rows of ten samples instead, each between two latents.", check=AT_LEAST_1
    )
    seed: int = option(0, "Seed of the noise: the same run, number and seed give the same samples.")
    checkpoint: str = option("newest", CHECKPOINT)
    device: str | None = option(None, DEVICE)

    def file(self) -> Path:
        """Where the samples go: its ending is that of --format, .png or .npz."""
        out = self.out or Path(f"samples.{self.format or 'png'}")
        if out.suffix not in (".png", ".npz"):
            raise UserError(f"--out must end in .png or .npz, got {out}")
        if self.format is not None and out.suffix != f".{self.format}":
            raise UserError(f"--format {self.format} contradicts --out {out}")
        return out


@dataclass(kw_only=True)
class Evaluate:
    """Compare a run's generated samples with held-out real ones."""

    run: Path = option(MISSING, "Run folder.")
    checkpoint: str = option("newest", CHECKPOINT)
    device: str | None = option(None, DEVICE)


@dataclass(kw_only=True)
class Doctor:
    """Print what a bug report needs: versions, devices, backends, threads."""


@dataclass(kw_only=True)
class Explain:
    """Explain which layers of a built-in critic prevent faster gradients."""

    data: str = option("digits", "Data that the critic is for; it determines the shape of a sample.")
    architecture: Architecture | None = option(None, "mlp, pyramid, conv8, dcgan or resnet; by default the data's.")
    batch: int = option(64, "Samples.", check=AT_LEAST_1)


@dataclass(kw_only=True)
class Bench:
    """Measure the library's speedups on this machine, in a minute."""

    rounds: int = option(21, "Interleaved rounds per row of the table.", check=AT_LEAST_1)
    device: str = option("cpu", "Device to compute on: cpu, cuda or cuda:INDEX.")


@dataclass(kw_only=True)
class Study:
    """Test a claim of the theory; write a figure and the numbers."""

    name: str = option(MISSING, 'The study; "list", or no argument at all, lists them.')
    size: Literal["smoke", "default", "full"] = option(
        "default", "smoke (seconds), default (a minute or two on two cores), or full (hours)."
    )
    seed: int = option(0, "The first of three seeds (of five with --size full).", check=AT_LEAST_0)
    out: Path = option(Path("studies"), "Folder of NAME.png and NAME.json.")


Command = Train | Sample | Evaluate | Explain | Bench | Doctor | Study
COMMANDS: dict[str, type[Command]] = {kind.__name__.lower(): kind for kind in get_args(Command)}
HELP = ("-h", "--help")
OVERVIEW = """usage: wgan-fast COMMAND [options]

Train, sample and evaluate Wasserstein GANs.

commands:
{commands}

wgan-fast COMMAND --help lists the options of a command.

Exit codes: 0 done; 2 a mistake in the arguments or in a file, one line on
stderr; 130 and 143 stopped by SIGINT and SIGTERM, after a checkpoint."""


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments name, with its options.

    Raises:
        SystemExit: with code 0, after printing the help, which shows the defaults for the other arguments.
    """
    name, *words = arguments or HELP
    if name in HELP:
        print(OVERVIEW.format(commands="\n".join(f"  {name:<10}{kind.__doc__}" for name, kind in COMMANDS.items())))
        raise SystemExit(0)
    if name not in COMMANDS:
        advice = did_you_mean(name, COMMANDS) or f"; expected one of {', '.join(COMMANDS)}"
        raise UserError(f"{name} is not a command{advice}")
    if name == "study" and not words:
        words = ["list"]
    if not set(words) & set(HELP):
        return _command(name, words)
    try:
        shown = _command(name, [word for word in words if word not in HELP])
    except UserError:
        shown = None
    _parser(name, shown).print_help()
    raise SystemExit(0)


def default_folder(config: Config) -> Path:
    """``runs/DATA-CONSTRAINT``."""
    name = f"{Path(config.data).stem}-{config.constraint}".replace(":", "-")
    return Path("runs") / (f"{name}-conditional" if config.conditional else name)


def _command(name: str, words: list[str]) -> Command:
    kind = COMMANDS[name]
    parsed, unknown = _parser(name).parse_known_args(words)
    if unknown:
        word = unknown[0].partition("=")[0]
        known = [flag(each.name) for each in _arguments(name) if each.default is not MISSING]
        advice = did_you_mean(word, known) or f"; wgan-fast {name} --help lists them"
        raise UserError(f"{word} is not an {'option' if word.startswith('-') else 'argument'} of {name}{advice}")
    present = [each for each in _arguments(name) if each.name in parsed]
    values = {each.name: each.read(getattr(parsed, each.name), _spelled(each)) for each in present}
    if kind is Train:
        given = {name: values.pop(name) for name in options_of(Config) if name in values}
        values["options"] = _config(given, values.get("config"), values.get("out"), resume="resume" in values)
    return kind(**values)


def _config(given: Mapping[str, Any], file: Path | None, out: Path | None, *, resume: bool) -> Config:
    """The options given, over those of the config file or of the run that is resumed."""
    if file is not None and resume:
        raise UserError("--resume continues with the run's own options; --config contradicts it")
    if resume:
        folder = out or default_folder(Config(**{"data": "digits", **given}))
        return dataclasses.replace(read_config(folder), **given)
    of_file = {} if file is None else read_config_file(file)
    return Config(**{"data": "digits", **of_file, **given})


def read_config_file(path: Path) -> dict[str, Any]:
    """The options of a YAML or JSON file, a run's config.json among them: a map from names to values.

    Names are those of the command line without the dashes in front, ``n-critic`` or ``n_critic``. Numbers may be
    written as in Python, although YAML itself reads 5e-5 as text. null leaves out an option whose default
    depends on the others.
    """
    content = _content(path)
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: expected a map from options to values, got {content!r:.40}")
    known = {name: each for name, each in options_of(Config).items() if not each.hidden}
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name in ("wgan_fast", "sample_shape", "num_classes"):
            continue  # what config.json holds besides the options
        if name not in known:
            raise UserError(f"--config {path}: {key} is not an option of a run{did_you_mean(name, known)}")
        if name in values:
            raise UserError(f"--config {path}: {name} is given twice")
        if value is not None or known[name].default not in (LEFT_OUT, None):
            values[name] = known[name].read(value, f"--config {path}: {name}")
    return values


def _content(path: Path) -> Any:
    try:
        raw = path.read_bytes()  # the parsers know the encodings
    except FileNotFoundError:
        raise UserError(f"--config {path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error})") from error
    if path.suffix == ".json":
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--config {path}: is not JSON ({error})") from error
    yaml = require("yaml", "--config")
    try:
        content = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of an impossible date or number
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"--config {path}: is not YAML ({line}{problem})") from error
    return {} if content is None else content


def _spelled(option: Option) -> str:
    return option.name.upper() if option.default is MISSING else flag(option.name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def _arguments(name: str) -> list[Option]:
    """The options of a command that are on the command line."""
    kinds: list[type] = [Train, Config] if name == "train" else [COMMANDS[name]]
    return [each for kind in kinds for each in options_of(kind).values() if not each.hidden]


def _parser(name: str, shown: Command | None = None) -> argparse.ArgumentParser:
    """The parser of a command; its help gives the values of ``shown`` as defaults."""
    positional = [each.name.upper() for each in _arguments(name) if each.default is MISSING]
    parser = _Parser(
        prog=f"wgan-fast {name}",
        usage=" ".join(["wgan-fast", name, *positional, "[options]"]),
        description=COMMANDS[name].__doc__,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=27),
    )
    groups: dict[str, Any] = {"options": parser}
    values = {} if shown is None else vars(shown) | (vars(shown.options) if isinstance(shown, Train) else {})
    for each in _arguments(name):
        if each.group not in groups:
            groups[each.group] = parser.add_argument_group(each.group)
        _add(groups[each.group], each, values.get(each.name, each.default))
    return parser


def _add(group: Any, option: Option, default: Any) -> None:
    text = option.text
    # Options of the command itself have no --no- form; those of the training need one, against a config file.
    switch = option.group == "command" and option.default is False
    if option.default is MISSING:
        group.add_argument(option.name, metavar=option.name.upper(), help=text)
        return
    if option.only:
        other, *effective = option.only
        text += f" Only with {flag(other)} {', '.join(effective)}."
    if default is LEFT_OUT:
        text += " (default: by the other options)"
    elif default is not None and not switch:
        text += f" (default: {shown_value(default)})".replace("%", "%%")
    how: dict[str, Any] = {"metavar": {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}.get(option.type, "NAME")}
    if get_origin(option.type) is tuple:
        how = {"metavar": "FLOAT", "nargs": len(get_args(option.type))}
    elif option.type is bool:
        how = {"action": "store_true" if switch else argparse.BooleanOptionalAction}
    action = group.add_argument(flag(option.name), dest=option.name, **how)
    action.help = text  # set afterwards: BooleanOptionalAction of Python 3.10 appends a default of its own
