"""``make gpu``: build, test and measure on a machine with a CUDA device, in ten minutes and without a network.

    make gpu                                    everything, each part for its share of 540 seconds
    make gpu PARTS="build tests sanitizers"     or in three calls, each with the whole of that time
    make gpu PARTS="build triton cuda critics"
    make gpu PARTS="build training" OUT=results

Every part runs in processes of its own with a time limit (benchmarks/gpu_parts.py), so a failing part does not affect
the others. What nvcc has built in build/cuda is used again, also if it was built elsewhere.

Into the folder (--out, or the environment's OUT): gpu_<part>.log, written as the part goes; gpu_tests.xml, written as
tests end; one CSV file per benchmark, written anew after every case; gpu.json with the reports of all parts, the aims
and the rows, written after every part. Calls into the same folder add to one another. The exit code is 0 if there is
a device and no part failed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.gpu_parts import ROOT, Part, Report, run, run_parts
from benchmarks.gpu_targets import BACKENDS, aims
from benchmarks.schema import LIMIT, OURS, RESULTS, Line, read_lines

SECONDS = 540.0
CORES = os.cpu_count() or 1
WORKERS = max(1, min(8, CORES // 2))
MEASURED = {
    **{name: ("gpu_cases", name) for name in BACKENDS},
    "critics": ("gpu_critics",),
    "training": ("gpu_training",),
}
"""The parts that measure: a module of benchmarks and its arguments."""
PARITY = "(gpu_parity and cuda and dtype0)"
SANITIZERS = {
    # The sequences are for this: a kernel kept from a round size may read past the end of an odd one.
    "memcheck": f"{PARITY} or ((gpu_sequences or gpu_second_order) and dtype0)",
    "racecheck": PARITY,
    "initcheck": PARITY,
}
"""Which of the tests each tool of compute-sanitizer sees."""

# ----------------------------------------------------------------------------------------------------- parts


def environment(folder: Path) -> Report:
    import torch

    def first_line(*command: str) -> str:
        lines: list[str] = run(command, 20, folder / "gpu_environment.log")["output"]
        return lines[-1] if lines else ""

    present = torch.cuda.is_available()
    return {
        "ok": present,
        "device": torch.cuda.get_device_name() if present else "no CUDA device",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "triton": _version("triton"),
        "nvcc": first_line("nvcc", "--version"),
        "driver": first_line("nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"),
        "commit": first_line("git", "rev-parse", "--short", "HEAD"),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def build(folder: Path, limit: float) -> Report:
    """The compiled modules, in place, by setup.py; where pybind11 is not installed, with the headers that torch has."""
    log = folder / "gpu_build.log"
    if importlib.util.find_spec("pybind11"):
        return run([sys.executable, "setup.py", "build_ext", "--inplace"], limit, log, WGAN_FAST_CUDA="1")
    return run([sys.executable, "-c", "from benchmarks import gpu; gpu.build_without_pybind11()"], limit, log)


def build_without_pybind11() -> None:
    import torch

    from build_tools import cuda

    if reason := cuda.missing():
        sys.exit(reason)
    nvcc = cuda.find_nvcc()
    assert nvcc is not None
    include, library = cuda.folders(nvcc)
    headers = [str(include), str(Path(torch.__file__).parent / "include"), sysconfig.get_paths()["include"]]
    target = ROOT / "wgan_fast" / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = ["g++", "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-Icsrc", "-Icsrc/cuda"]
    command += [f"-I{folder}" for folder in headers]
    command += ["csrc/cuda/bindings.cpp", *cuda.compile_kernels(), "-o", str(target)]
    subprocess.run([*command, f"-L{library}", "-lcudart_static", "-lrt", "-lpthread", "-ldl"], check=True)


def tests(folder: Path, limit: float) -> Report:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "benchmarks.gpu_junit", "--junit-as-it-goes", str(folder / "gpu_tests.xml")]
    workers = WORKERS if importlib.util.find_spec("xdist") else 1
    if workers > 1:
        command += ["-n", str(workers)]
    # References run on the CPU. With all cores in every worker, threads spin while they wait for one another.
    report = run(command, limit, folder / "gpu_tests.log", OMP_NUM_THREADS=str(CORES // workers))
    # pytest succeeds when everything was skipped; this run must not.
    passed = any(" passed" in line for line in report["output"])
    return {**report, "ok": report["ok"] and passed}


def sanitizers(folder: Path, limit: float) -> Report:
    """compute-sanitizer, with every tensor an allocation of its own."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        return {"ok": True, "skipped": "compute-sanitizer is not installed"}
    reports: dict[str, Report] = {}
    end = time.monotonic() + limit
    for i, (tool, selection) in enumerate(SANITIZERS.items()):
        left = end - time.monotonic()
        share = left if i == len(SANITIZERS) - 1 else left / 2  # the first has most tests
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "tests/gpu"]
        command += ["-k", selection, "-q", "-x", "-p", "no:cacheprovider"]
        log = folder / f"gpu_{tool}.log"
        reports[tool] = run(command, share, log, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return {"ok": all(report["ok"] for report in reports.values()), **reports}


def measured(name: str, folder: Path, limit: float) -> Report:
    """The benchmarks of a backend, of critic steps or of training iterations: a program that writes its CSV by case."""
    path = folder / f"gpu_{name}.csv"
    module, *arguments = MEASURED[name]
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--out", str(path)]
    report = run(command, limit, folder / f"gpu_{name}.log")
    problems = path.with_suffix(".problems.json")
    if problems.exists():
        report["problems"] = json.loads(problems.read_text())
        report["ok"] = report["ok"] and not report["problems"]
        problems.unlink()
    return report


def no_device(limit: float) -> Report:
    return {"ok": True, "skipped": "no CUDA device"}


def parts(folder: Path, device: bool) -> list[Part]:
    """All parts in order. Weights are shares of the time left, the third figure the least seconds to begin with."""
    every = [
        Part("build", 3, 10, partial(build, folder)),
        Part("tests", 3, 30, partial(tests, folder)),
        *(Part(backend, 2, 25, partial(measured, backend, folder)) for backend in BACKENDS),
        Part("critics", 2, 40, partial(measured, "critics", folder)),
        Part("training", 4, 40, partial(measured, "training", folder)),
        Part("sanitizers", 2, 40, partial(sanitizers, folder)),
    ]
    return [part if device or part.name == "build" else Part(part.name, 0.01, 0, no_device) for part in every]


# --------------------------------------------------------------------------------------------------- results


def measured_rows(folder: Path) -> list[Line]:
    paths = (folder / f"gpu_{name}.csv" for name in MEASURED)
    return read_lines(path for path in paths if path.exists())


def earlier_reports(folder: Path) -> dict[str, Report]:
    path = folder / "gpu.json"
    reports: dict[str, Report] = json.loads(path.read_text())["parts"] if path.exists() else {}
    return reports


def write_results(reports: dict[str, Report], folder: Path) -> None:
    rows = measured_rows(folder)
    found = [{**aim._asdict(), "outcome": aim.outcome} for aim in aims(rows)]
    unfinished = folder / "gpu.json.tmp"
    unfinished.write_text(json.dumps({"parts": reports, "aims": found, "rows": rows}, indent=1) + "\n")
    unfinished.replace(folder / "gpu.json")


def print_tables(reports: dict[str, Report], folder: Path) -> None:
    rows = measured_rows(folder)
    for row in rows:
        if row["provider"] != LIMIT:
            share = "" if row["fraction_of_limit"] == "nan" else f"{float(row['fraction_of_limit']):7.0%}"
            times = "" if row["provider"] == OURS else f"{float(row['ratio']):6.2f}x"
            name = f"{row['op'][:52]:52} {row['workload'][:30]:30} {row['provider'][:32]:32}"
            launches = f"{row['launches']} launches" if row.get("launches", "0") != "0" else ""
            print(f"{name} {float(row['median']):10.2f} us {share:>7} {times:>8} {launches}")
    print()
    for aim in aims(rows):
        figure = "" if aim.measured is None else f"{aim.measured:.3g}"
        print(f"{aim.outcome:6} {aim.name:78} {figure:>8}   (>= {aim.least:.3g})")
    print()
    for name, report in reports.items():
        print(f"{name:12} {outcome(report):60} {report.get('seconds', '')}")


def outcome(report: Report) -> str:
    if "skipped" in report:
        return f"skipped: {report['skipped']}"
    return "ok" if report["ok"] else f"FAILED{', ' + report['cut'] if 'cut' in report else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    names = [part.name for part in parts(Path(), device=True)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=names, default=[], metavar="PART", help=", ".join(names))
    parser.add_argument("--out", type=Path, help="folder of the results; OUT in the environment, benchmarks/results")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything")
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.seconds

    import torch

    device = torch.cuda.is_available()
    folder: Path = options.out or Path(os.environ.get("OUT") or (RESULTS if device else ROOT / "build" / "gpu"))
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [part for part in parts(folder, device) if part.name in (options.parts or names)]
    for part in chosen:
        for stale in folder.glob(f"gpu_{part.name}.*"):
            stale.unlink()
    reports = {**earlier_reports(folder), "environment": environment(folder)}
    if not device:
        print(f"make gpu: torch finds no CUDA device; what needs none is done, into {folder}", file=sys.stderr)
    for report in run_parts(chosen, end - time.monotonic()):
        reports[report["part"]] = report
        print(f"{report['part']}: {outcome(report)}", *report.get("output", [])[-8:], sep="\n", flush=True)
        write_results(reports, folder)
    print_tables(reports, folder)
    return 0 if all(reports[name]["ok"] for name in ("environment", *(part.name for part in chosen))) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by an exception, so that the running part is killed too
    sys.exit(main())
