"""Shared by all studies: sizes, seeds, processes, the JSON and the PNG."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import math
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from wgan_fast.studies import STUDIES
from wgan_fast.training.errors import UserError, did_you_mean, require, writing

Size = Literal["smoke", "default", "full"]
Array = NDArray[np.float64]
SEEDS = {"smoke": 2, "default": 3, "full": 5}


class Measurement(NamedTuple):
    """Results of one case with one seed: ``numbers`` holds floats, strings, and lists of them, by name.

    ``cpu_seconds`` is processor time, which is comparable on a machine that does other work too.
    """

    case: str
    seed: int
    numbers: dict[str, Any]
    cpu_seconds: float


@dataclasses.dataclass(frozen=True)
class Results:
    """All measurements of a study, ordered by case and seed."""

    settings: Any
    measurements: Sequence[Measurement]

    def values(self, case: str, name: str) -> Array:
        """``(seeds, ...)`` float64: the number or list of that name, one row per seed."""
        return np.array([m.numbers[name] for m in self.measurements if m.case == case], dtype=np.float64)

    def each(self, name: str) -> dict[str, Array]:
        """The values of that name by case, of the cases that have it, in the order in which the study names them."""
        cases = dict.fromkeys(m.case for m in self.measurements if name in m.numbers)
        return {case: self.values(case, name) for case in cases}

    def ends(self, name: str) -> dict[str, Array]:
        """``(seeds, ...)`` by case: the last entry of the list of that name, its value at the end of training."""
        return {case: values[:, -1] for case, values in self.each(name).items()}

    def ending(self, suffix: str) -> Results:
        """The measurements of the cases whose names end so, which here are named by what is before it."""
        ours = [m for m in self.measurements if m.case.endswith(suffix)]
        return Results(self.settings, [m._replace(case=m.case.removesuffix(suffix)) for m in ours])


class Study(Protocol):
    """The names that a study module of this package defines."""

    SIZES: dict[Size, Any]
    """The settings (a dataclass) of each size."""
    CASES: Mapping[str, Any]
    """What is compared, by name: of each case, what ``measure`` takes."""
    measure: Callable[[Any, int, Any], dict[str, Any]]
    """From case, seed and settings to numbers (or tensors of them); runs in a process of its own, on one thread."""
    draw: Callable[[Results], Any]
    """The figure."""
    conclude: Callable[[Results], str]
    """The conclusion in words, computed from the numbers, whether or not the claim holds."""


class Report(NamedTuple):
    """The conclusion of a study, and its files."""

    findings: str
    files: tuple[Path, Path]
    seconds: float


def run_study(name: str, *, size: Size = "default", seed: int = 0, out: Path = Path("studies")) -> Report:
    """Run a study and write ``NAME.png`` and ``NAME.json``.

    Args:
        name: a key of `wgan_fast.studies.STUDIES`.
        size: ``default`` takes a minute or two on two cores, ``full`` long enough to settle the question, ``smoke``
            seconds, to see that it runs.
        seed: the first of the seeds; 3 are run, 5 of the full size.
        out: folder of the two files.

    Raises:
        UserError: an unknown name, a negative seed, or a missing package.
    """
    if name not in STUDIES:
        advice = did_you_mean(name, STUDIES) or f"; expected one of {', '.join(STUDIES)}"
        raise UserError(f"study {name} is unknown{advice}")
    if seed < 0:
        raise UserError(f"--seed must not be negative, got {seed}")
    require("matplotlib", "drawing a study")
    require("ot", "the exact Wasserstein distance")
    start = time.perf_counter()
    study: Any = importlib.import_module(f"wgan_fast.studies.{name.replace('-', '_')}")
    with writing(f"--out {out}"):
        out.mkdir(parents=True, exist_ok=True)
    results = collect(study, size, seed)
    findings = study.conclude(results)
    seconds = time.perf_counter() - start
    files = (out / f"{name}.png", out / f"{name}.json")
    _write_picture(files[0], study.draw(results))
    content = {
        "study": name,
        "claim": STUDIES[name],
        "findings": findings,
        "size": size,
        "seeds": sorted({m.seed for m in results.measurements}),
        "settings": dataclasses.asdict(results.settings),
        "seconds": round(seconds, 1),
        "versions": _versions(),
    }
    _write_numbers(files[1], content, results.measurements)
    return Report(findings, files, seconds)


def collect(study: Study, size: Size, seed: int) -> Results:
    """Measure every case with every seed, in as many processes as there are cores (smoke: in this one)."""
    settings = study.SIZES[size]
    seeds = range(seed, seed + SEEDS[size])
    tasks = [(study.measure, name, case, each, settings) for name, case in study.CASES.items() for each in seeds]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(tasks))
    if size == "smoke" or workers == 1:
        threads = torch.get_num_threads()
        try:
            return Results(settings, [_timed(task) for task in tasks])
        finally:
            torch.set_num_threads(threads)
    # Ctrl-C reaches every process of the terminal: the workers end without a traceback, and only this one reports it.
    ends = (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), signal.signal, ends) as pool:
        return Results(settings, list(pool.map(_timed, tasks)))


def _timed(task: tuple[Callable[[Any, int, Any], dict[str, Any]], str, Any, int, Any]) -> Measurement:
    measure, name, case, seed, settings = task
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    start = time.process_time()
    measured = measure(case, seed, settings)
    # As lists: tensors would be passed in shared memory, of which a container may have little.
    numbers = {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in measured.items()}
    return Measurement(name, seed, numbers, round(time.process_time() - start, 3))


def _write_numbers(path: Path, content: dict[str, Any], measurements: Sequence[Measurement]) -> None:
    """JSON with one line per measurement."""
    head = json.dumps(_plain(content), ensure_ascii=False, allow_nan=False, indent=1).removesuffix("\n}")
    rows = (json.dumps(_plain(m._asdict()), ensure_ascii=False, allow_nan=False) for m in measurements)
    path.write_text(f'{head},\n "measurements": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n")


def _write_picture(path: Path, drawn: Any) -> None:
    """A PNG of 128 colours: a quarter of the bytes, with no visible difference."""
    image = require("PIL.Image", "drawing a study")
    raw = io.BytesIO()
    drawn.savefig(raw, format="png")
    image.open(raw).convert("RGB").quantize(128, dither=image.Dither.NONE).save(path, optimize=True)


def _versions() -> dict[str, str]:
    import wgan_fast

    return {
        "wgan_fast": wgan_fast.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "POT": require("ot", "the exact Wasserstein distance").__version__,
        "python": platform.python_version(),
    }


def _plain(value: Any) -> Any:
    """A value for JSON: tuples as lists, six digits of a float, "inf" and "nan" as strings."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


def panels(width: float, height: float, rows: int, columns: int, *, lines: bool = True, **options: Any) -> Any:
    """A figure, ``width`` x ``height`` hundreds of pixels, and its empty panels, by default with grid lines."""
    figure = require("matplotlib.figure", "drawing a study").Figure((width, height), dpi=100, layout="constrained")
    grid = figure.subplots(rows, columns, **options)
    for axes in grid.flat if lines else ():
        axes.grid(alpha=0.3)
    return figure, grid


def draw_band(axes: Any, x: Any, values: Array, **style: Any) -> None:
    """The mean over the first dimension (seeds) as a line, and a band from the least to the greatest value."""
    (line,) = axes.plot(x, values.mean(0), **style)
    axes.fill_between(x, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)


def draw_points(axes: Any, x: Any, values: Array, **style: Any) -> None:
    """The mean over the first dimension (seeds) as markers, with error bars from the least to the greatest value."""
    error = [values.mean(0) - values.min(0), values.max(0) - values.mean(0)]
    axes.errorbar(x, values.mean(0), error, **{"linestyle": "none", "markersize": 4, "capsize": 2} | style)


def draw_bars(axes: Any, values: Mapping[str, Array], colors: Sequence[str]) -> None:
    """Named horizontal bars from the top down, each to the mean over seeds, with a dot for each seed."""
    for place, (seeds, color) in enumerate(zip(values.values(), colors, strict=True)):
        axes.barh(place, seeds.mean(), color=color, alpha=0.6)
        axes.plot(seeds, [place] * len(seeds), "k.", markersize=4)
    axes.set_yticks(range(len(values)), values)
    axes.yaxis.set_inverted(True)
    axes.grid(visible=False, axis="y")


def legend_below(canvas: Any, *panels: Any, columns: int) -> None:
    """One legend under all panels, with every label of these once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True)) | entries
    canvas.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, fontsize=9)


def by_name(numbers: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One list per name, of the numbers that all of these have."""
    return {name: [each[name] for each in numbers] for name in numbers[0]}


def by_mean(values: Mapping[str, Array]) -> list[str]:
    """The cases from the lowest to the highest mean over seeds; NaN counts as infinite."""
    return sorted(values, key=lambda case: np.nan_to_num(values[case].mean(), nan=np.inf))


def spread(values: Array, digits: int = 2) -> str:
    """ "mean ± standard deviation" over the seeds, to so many significant digits."""
    return f"{values.mean():.{digits}g} ± {values.std(ddof=1):.{digits}g}"
