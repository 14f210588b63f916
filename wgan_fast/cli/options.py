"""What ``wgan-fast`` can be told to do: a dataclass for each command, and how the arguments become one of them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from wgan_fast.training.arguments import as_arguments, config_groups, to_config
from wgan_fast.training.config import Config
from wgan_fast.training.errors import UserError, require

Format = Literal["png", "npz"]


@dataclass
class Train:
    """Train a WGAN, evaluate it, and write figures and pictures into a run folder."""

    out: Path | None = None
    """Run folder."""
    config_file: Path | None = None
    """Options from a YAML or JSON file; those of the command line win."""
    resume: bool = False
    """Continue the run in that folder; --iterations may be raised."""
    checkpoint: str = "newest"
    """Where --resume continues: newest, best or an iteration; later ones go."""
    overwrite: bool = False
    """Replace the run in that folder."""
    evaluate: bool = True
    """At the end, compare samples with held-out real ones."""
    quiet: bool = False
    """Print nothing but errors."""
    config: Config = field(default_factory=Config)

    def folder(self) -> Path:
        if self.out is not None:
            return self.out
        name = f"{Path(self.config.data).stem}-{self.config.constraint}".replace(":", "-")
        return Path("runs") / (f"{name}-conditional" if self.config.conditional else name)


@dataclass
class Sample:
    """Draw samples from a trained generator."""

    run: Path
    """Run folder."""
    out: Path | None = None
    """A .png (a grid of images, or a plot of points) or a .npz (arrays "samples", float32, and "labels")."""
    format: Format | None = None
    """png or npz, where --out does not say."""
    num: int = 64
    """How many."""
    class_: int | None = None
    """Class of the samples of a conditional run; without it the classes take turns."""
    interpolate: int | None = None
    """Rows of ten samples instead, each row on the way from one latent to another."""
    seed: int = 0
    """Draws the noise: the same run, num and seed give the same samples."""
    checkpoint: str = "newest"
    """newest, best (the nearest to held-out samples), or an iteration."""
    device: str | None = None
    """Where to compute; by default where the run was trained."""

    def file(self) -> Path:
        """Where the samples go.

        Raises:
            UserError: the ending of --out is another than --format, or neither png nor npz.
        """
        out = self.out or Path(f"samples.{self.format or 'png'}")
        if out.suffix not in (".png", ".npz"):
            raise UserError(f"--out must end in .png or .npz, got {out}")
        if self.format is not None and out.suffix != f".{self.format}":
            raise UserError(f"--format {self.format} contradicts --out {out}")
        return out


@dataclass
class Evaluate:
    """Compare a run's generated samples with held-out real ones."""

    run: Path
    """Run folder."""
    checkpoint: str = "newest"
    """newest, best (the nearest to held-out samples), or an iteration."""
    device: str | None = None
    """Where to compute; by default where the run was trained."""


@dataclass
class Doctor:
    """Versions, devices, backends and threads: what a bug report needs."""


@dataclass
class Study:
    """Put a claim of the theory to the test: a figure, the numbers, and what they show."""

    name: str
    """Which; "list", or no argument at all, lists them."""
    size: Literal["smoke", "default", "full"] = "default"
    """smoke: seconds, to see that it runs; default: a minute or two on two cores; full: as long as it takes."""
    seed: int = 0
    """The first of three seeds (five of the full size)."""
    out: Path = Path("studies")
    """Folder of NAME.png and NAME.json."""


Command = Train | Sample | Evaluate | Doctor | Study

DESCRIPTION = """Train, sample and evaluate Wasserstein GANs.

Exit codes: 0 done; 2 a mistake in the arguments or in a file, one line on stderr; 130 and 143 stopped by SIGINT and
SIGTERM, after a checkpoint."""

SPELLINGS = {"class_": "class", "config_file": "config"}
HINTS = {
    "out": {"Train": "(default: runs/DATA-CONSTRAINT)", "Sample": "(default: samples.png)"},
    "config_file": {"Train": ""},
    "format": {"Sample": ""},
    "class_": {"Sample": ""},
    "interpolate": {"Sample": ""},
    "device": {"Sample": "", "Evaluate": ""},
}
"""What --help says in place of ``(default: None)``."""


def parse(arguments: list[str]) -> Command:
    """The command that the arguments ask for; a file's or a resumed run's options become its defaults.

    Raises:
        UserError: the arguments do not parse.
        SystemExit: with code 0, after --help.
    """
    given = [word for word in arguments if word not in ("-h", "--help")]
    asks_for_help = len(given) < len(arguments)
    given = ["study", "list"] if given == ["study"] else given
    try:
        command = _parse(given, Config())
        if isinstance(command, Train) and (command.resume or command.config_file):
            command = _parse(given, _defaults(command))
    except UserError:
        if not asks_for_help:
            raise
        command = _parse(arguments, Config())
    if asks_for_help:  # what the other arguments make of the defaults
        subcommand = [type(command).__name__.lower()] if given else []
        _parse([*subcommand, "--help"], command.config if isinstance(command, Train) else Config())
    return command


def _defaults(command: Train) -> Config:
    """The options that the command line overrides: a config file's or a resumed run's."""
    if command.config_file is not None:
        from wgan_fast.training.config_file import read_config_file

        if command.resume:
            raise UserError("--resume continues with the run's own options; --config contradicts it")
        return Config(**read_config_file(command.config_file))
    from wgan_fast.training.run.folder import read_config

    saved = read_config(command.folder())
    return Config(**{field.name: getattr(saved, field.name) for field in dataclasses.fields(Config)})


def _parse(arguments: list[str], defaults: Config) -> Command:
    tyro = require("tyro", "the command line")
    built: dict[type, type[Command]] = {_train_arguments(defaults): Train}
    built |= {
        as_arguments(kind, hints=_hints(kind), spellings=SPELLINGS): kind for kind in (Sample, Evaluate, Doctor, Study)
    }
    named: list[Any] = [
        Annotated[arguments_of, tyro.conf.subcommand(kind.__name__.lower())] for arguments_of, kind in built.items()
    ]
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            parsed = tyro.cli(
                Union[tuple(named)],  # noqa: UP007 - made at run time
                prog="wgan-fast",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs, tyro.conf.DisallowNone),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_first_sentence(captured.getvalue())) from None
    values: dict[str, Any] = vars(parsed)
    if built[type(parsed)] is Train:
        command_options = vars(values.pop("command"))
        return Train(config=to_config(list(values.values())), **command_options)
    return built[type(parsed)](**values)


def _train_arguments(defaults: Config) -> type:
    """The options of `Train` in groups, those of its config first."""
    own = [name for name in Train.__dataclass_fields__ if name != "config"]
    groups = config_groups(defaults)
    groups["command"] = as_arguments(Train, own, hints=_hints(Train), spellings=SPELLINGS, name="command")
    fields = [(name, group, field(default_factory=group)) for name, group in groups.items()]
    built = dataclasses.make_dataclass("Train", fields)
    built.__doc__ = Train.__doc__
    return built


def _hints(kind: type) -> Mapping[str, str]:
    return {name: hints[kind.__name__] for name, hints in HINTS.items() if kind.__name__ in hints}


def _first_sentence(box: str) -> str:
    """The message inside tyro's box, without its frame, its help text and its advice."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\[/?bold\]", "", box)
    framed = [line.strip("│|╭╮╰╯+ ") for line in plain.splitlines()]
    lines = [line for line in framed if line.strip("─- ")]
    message: list[str] = []
    for line in lines[1:] or lines:
        if line.startswith(("Argument helptext", "For full helptext", "Perhaps you meant")):
            break
        message.append(line)
    told = " ".join(" ".join(message).split()).partition(" Got errors:")[0]
    return told or "the arguments cannot be understood"
