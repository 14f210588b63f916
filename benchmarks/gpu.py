"""``make gpu``: build, test and measure on a machine with a CUDA device, in ten minutes and without a network.

Every part runs in a process of its own with a limit on its time; what one part breaks, the others still do. Results
go to benchmarks/results/gpu.csv and gpu.json, written anew after every part; a table is printed last. The exit code
is 0 if every part succeeded. Without a device the parts that need none still run, and nothing in results is touched.
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.schema import LIMIT, OURS, RESULTS

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600
BACKENDS = ("triton", "cuda")
PARTIAL = (*BACKENDS, "training")
TRAINING_TARGETS = {"toy MLP, B=256": 10.0, "MNIST MLP, B=64": 10.0, "DCGAN-64, B=64": 3.0}
BANDWIDTH_TARGET = 0.88  # of a large device copy in the same run
BANDWIDTH_OPS = ("clip_weights", "interpolate", "gradient_norm_penalty", "RMSprop step + clip", "Adam step + clip")
DCGAN = "DCGAN-64 critic, 2.76 M in 9"
SANITIZERS = ("memcheck", "racecheck", "initcheck")

Report = dict[str, Any]


def run(command: list[str], limit: float, **environment: str) -> Report:
    """A command's outcome, and the end of what it printed."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=max(limit, 1.0),
            check=False,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, output = -1, f"{_text(error.stdout)}\nstopped after {limit:.0f} s"
    except OSError as error:
        code, output = -1, str(error)
    tail = output.strip().splitlines()[-60:]
    return {"ok": code == 0, "exit_code": code, "seconds": round(time.monotonic() - start, 1), "output": tail}


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def first_line(command: list[str]) -> str:
    lines: list[str] = run(command, 20)["output"]
    return lines[-1] if lines else ""


# ------------------------------------------------------------------------------------------------------- parts


def environment() -> Report:
    import torch

    report: Report = {
        "ok": torch.cuda.is_available(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "triton": _version("triton"),
        "nvcc": first_line(["nvcc", "--version"]),
        "driver": first_line(["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]),
        "commit": first_line(["git", "rev-parse", "--short", "HEAD"]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return report


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def build(limit: float) -> Report:
    """The compiled modules, in place, by setup.py; where pybind11 is not installed, with the headers that torch has."""
    if importlib.util.find_spec("pybind11"):
        return run([sys.executable, "setup.py", "build_ext", "--inplace"], limit, WGAN_FAST_CUDA="1")
    return run([sys.executable, "-m", "benchmarks.gpu", "build"], limit)


def build_without_pybind11() -> None:
    import torch

    from build_tools import cuda

    if reason := cuda.missing():
        sys.exit(reason)
    nvcc = cuda.find_nvcc()
    assert nvcc is not None
    include, library = cuda.folders(nvcc)
    objects = cuda.compile_kernels(ROOT / "build" / "gpu")
    headers = [str(include), str(Path(torch.__file__).parent / "include"), sysconfig.get_paths()["include"]]
    target = ROOT / "wgan_fast" / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = ["g++", "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-Icsrc", "-Icsrc/cuda"]
    command += [f"-I{folder}" for folder in headers] + ["csrc/cuda/bindings.cpp", *objects, "-o", str(target)]
    subprocess.run([*command, f"-L{library}", "-lcudart_static", "-lrt", "-lpthread", "-ldl"], check=True)


def tests(limit: float) -> Report:
    report = run([sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-p", "no:cacheprovider"], limit)
    # pytest is content when everything was skipped; a run that was to show something is not.
    report["ok"] = report["ok"] and any(" passed" in line for line in report["output"])
    return report


def sanitizers(limit: float) -> Report:
    """compute-sanitizer over a selection of the parity tests, with every tensor an allocation of its own."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        return {"ok": True, "skipped": "compute-sanitizer is not installed"}
    selection = ["tests/gpu/test_gpu_parity.py", "-k", "cuda and dtype0", "-q", "-x", "-p", "no:cacheprovider"]
    reports = {}
    for tool in SANITIZERS:
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", *selection]
        reports[tool] = run(command, limit / len(SANITIZERS), PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return {"ok": all(report["ok"] for report in reports.values()), **reports}


def benchmarks(backend: str, limit: float, folder: Path) -> Report:
    path = folder / f"gpu_{backend}.partial.csv"
    return measured([sys.executable, "-m", "benchmarks.gpu_cases", backend, "--out", str(path)], limit, path)


def training(limit: float, folder: Path) -> Report:
    """Whole iterations, captured, eager, compiled and the textbook's."""
    path = folder / "gpu_training.partial.csv"
    return measured([sys.executable, "-m", "benchmarks.gpu_training", "--out", str(path)], limit, path)


def measured(command: list[str], limit: float, path: Path) -> Report:
    report = run(command, limit)
    problems = path.with_suffix(".problems.json")
    if problems.exists():
        report["problems"] = json.loads(problems.read_text())
        report["ok"] = report["ok"] and not report["problems"]
        problems.unlink()
    return report


# ----------------------------------------------------------------------------------------------------- results


def merged_rows(folder: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for backend in PARTIAL:
        path = folder / f"gpu_{backend}.partial.csv"
        if path.exists():
            with path.open(newline="") as file:
                rows += csv.DictReader(file)
    return rows


def targets(rows: list[dict[str, str]]) -> list[Report]:
    """What was aimed at, what was measured; measured is None where the case is missing."""
    found = {(row["op"], row["workload"], row["provider"]): row for row in rows}

    def value(op: str, workload: str, provider: str, column: str) -> float | None:
        row = found.get((op, workload, provider))
        return float(row[column]) if row else None

    aims: list[tuple[str, float | None, str, float]] = []
    for backend in BACKENDS:
        for op in BANDWIDTH_OPS:
            fraction = value(f"{op}, bandwidth [{backend}]", "64 M fp32", OURS, "fraction_of_limit")
            aims.append((f"{op} [{backend}], 64 M values: share of a copy's speed", fraction, ">=", BANDWIDTH_TARGET))
        clip, step = f"clip_weights, in a graph [{backend}]", f"RMSprop step + clip, in a graph [{backend}]"
        aims += [
            (f"{clip}, DCGAN-64: us", value(clip, DCGAN, OURS, "median"), "<=", 4.0),
            (f"{clip}, DCGAN-64: times as fast as foreach", value(clip, DCGAN, "foreach pair", "ratio"), ">=", 2.0),
            (
                f"{step}, DCGAN-64: times as fast as foreach",
                value(step, DCGAN, "foreach + foreach pair", "ratio"),
                ">=",
                4.0,
            ),
        ]
    for workload, times in TRAINING_TARGETS.items():
        op = "training iteration, fp32"
        aims.append(
            (f"{workload}: captured, times the textbook", value(op, workload, "textbook", "ratio"), ">=", times)
        )
        compiled = [
            float(row["ratio"])
            for row in rows
            if (row["op"], row["workload"]) == (op, workload) and row["provider"].startswith("compiled")
        ]
        best = min(compiled, default=None)
        aims.append((f"{workload}: captured, times the best compiled form", best, ">=", 1.0))
    return [
        {
            "target": name,
            "measured": measured,
            "aim": f"{sign} {aim}",
            "met": measured is not None and (measured >= aim if sign == ">=" else measured <= aim),
        }
        for name, measured, sign, aim in aims
    ]


def write_results(report: Report, folder: Path) -> list[dict[str, str]]:
    rows = merged_rows(folder)
    if rows:
        with (folder / "gpu.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    document = {**report, "targets": targets(rows), "rows": rows}
    (folder / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    return rows


def print_tables(report: Report, rows: list[dict[str, str]]) -> None:
    for row in rows:
        if row["provider"] != LIMIT:
            share = "" if row["fraction_of_limit"] == "nan" else f"{float(row['fraction_of_limit']):7.0%}"
            times = "" if row["provider"] == OURS else f"{float(row['ratio']):6.2f}x"
            name = f"{row['op'][:52]:52} {row['workload'][:30]:30} {row['provider'][:24]:24}"
            print(f"{name} {float(row['median']):10.2f} us {share:>7} {times:>8}")
    print()
    for aim in targets(rows):
        outcome = "absent" if aim["measured"] is None else "met" if aim["met"] else "MISSED"
        measured = "" if aim["measured"] is None else f"{aim['measured']:.3g}"
        print(f"{outcome:6} {aim['target']:78} {measured:>8}   ({aim['aim']})")
    print()
    for name, part in report["parts"].items():
        outcome = part.get("skipped") or ("ok" if part["ok"] else "FAILED")
        print(f"{name:16} {outcome:40} {part.get('seconds', '')}")


def main() -> int:
    start = time.monotonic()
    report: Report = {"parts": {"environment": environment()}}
    folder = RESULTS
    if not report["parts"]["environment"]["ok"]:
        folder = ROOT / "build" / "gpu"
        print(f"make gpu: torch finds no CUDA device; what needs none is done, into {folder}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("gpu_*.partial.*"):
        stale.unlink()
    # The name of a part, the most it may take, and the part.
    parts: list[tuple[str, float, Callable[[float], Report]]] = [
        ("build", 150, build),
        ("tests", 170, tests),
        *((f"bench {name}", 80, lambda limit, name=name: benchmarks(name, limit, folder)) for name in BACKENDS),
        ("bench training", 150, lambda limit: training(limit, folder)),
        ("sanitizers", 100, sanitizers),
    ]
    for name, most, part in parts:
        left = SECONDS - 15 - (time.monotonic() - start)
        print(f"{name} ...", flush=True)
        try:
            report["parts"][name] = part(min(most, left))
        except Exception as error:
            report["parts"][name] = {"ok": False, "output": [f"{type(error).__name__}: {error}"]}
        print("\n".join(report["parts"][name].get("output", [])[-12:]), flush=True)
        rows = write_results(report, folder)
    for merged in folder.glob("gpu_*.partial.*"):
        merged.unlink()
    print_tables(report, rows)
    return 0 if all(part["ok"] for part in report["parts"].values()) else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["build"]:
        build_without_pybind11()
    else:
        sys.exit(main())
