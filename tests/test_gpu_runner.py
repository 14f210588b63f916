"""``make gpu`` without a GPU: budgets, cuts, kills, test reports as they go, and aims, with stand-ins for its parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from benchmarks import gpu, gpu_critics
from benchmarks.common import Case, Provider
from benchmarks.gpu_parts import ROOT, Part, run, run_parts
from benchmarks.gpu_targets import CRITIC_STEPS, aims
from benchmarks.schema import OURS, Row, write_csv


class Clock:
    """Time that passes when a part works, and not otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.limits: dict[str, float] = {}

    def __call__(self) -> float:
        return self.now

    def part(self, name: str, weight: float, takes: float, least: float = 0.0) -> Part:
        def work(limit: float) -> dict[str, Any]:
            self.limits[name] = limit
            self.now += takes
            return {"ok": True}

        return Part(name, weight, least, work)


def test_what_a_part_leaves_unused_goes_to_the_later_ones() -> None:
    clock = Clock()
    parts = [clock.part("build", 1, takes=10), clock.part("tests", 1, takes=100), clock.part("training", 2, takes=1)]
    reports = list(run_parts(parts, 400, clock))
    assert clock.limits == {"build": 100, "tests": pytest.approx(130), "training": pytest.approx(290)}
    assert [(report["part"], report["seconds"]) for report in reports] == [
        ("build", 10),
        ("tests", 100),
        ("training", 1),
    ]


def test_a_part_without_time_left_is_skipped_and_has_not_failed() -> None:
    clock = Clock()
    parts = [clock.part("tests", 1, takes=95), clock.part("training", 1, takes=1, least=20)]
    _, training = run_parts(parts, 100, clock)
    assert "training" not in clock.limits
    assert gpu.outcome(training) == "skipped: no time left: 5 s, needs 20"
    assert training["ok"]


def test_an_exception_fails_its_part_alone() -> None:
    def broken(limit: float) -> dict[str, Any]:
        raise FileNotFoundError("nvcc")

    clock = Clock()
    first, second = run_parts([Part("build", 1, 0, broken), clock.part("tests", 1, takes=1)], 100, clock)
    assert (first["ok"], first["output"]) == (False, ["FileNotFoundError: nvcc"])
    assert second["ok"]


# ---------------------------------------------------------------- processes


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


CHILD = """
import signal, subprocess, sys, time
if {stubborn}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep({lasts})
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes run")
@pytest.mark.parametrize(("stubborn", "lasts"), [(False, 60), (True, 60), (False, 0)])
def test_no_child_outlives_its_part(stubborn: bool, lasts: float, tmp_path: Path) -> None:
    report = run(python(CHILD.format(stubborn=stubborn, lasts=lasts)), 2.0, tmp_path / "log", grace=0.2)
    child = int(report["output"][0])
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)
    assert ("cut" in report) == (lasts > 0)
    assert report["ok"] == (lasts == 0)


def test_a_cut_part_keeps_what_it_wrote(tmp_path: Path) -> None:
    code = "import time; print('a row', flush=True); time.sleep(60)"
    report = run(python(code), 2.0, tmp_path / "log")
    assert report["output"][0] == "a row"
    assert report["output"][-1].startswith("stopped after")
    assert (tmp_path / "log").read_text() == "a row\n"
    assert gpu.outcome(report).startswith("FAILED, stopped after")


def test_a_program_that_is_not_there_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    report = run(["no-such-program"], 5, tmp_path / "log")
    assert not report["ok"]
    assert "no-such-program" in report["output"][0]


# ---------------------------------------------------------------- reports


def test_test_reports_are_written_before_the_run_ends(tmp_path: Path) -> None:
    tests, report = tmp_path / "test_it.py", tmp_path / "report.xml"
    code = """
import os, pytest
def test_passes(): pass
def test_fails(): assert 1 + 1 == 3
@pytest.mark.skip(reason="no device")
def test_is_skipped(): pass
def test_ends_everything(): os._exit(9)
"""
    tests.write_text(code)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "benchmarks.gpu_junit", "-c", "/dev/null"]
    command += ["--rootdir", str(tmp_path), "--junit-as-it-goes", str(report), str(tests)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUNIT_SECONDS": "0"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 9, done.stdout
    suite = ElementTree.parse(report).getroot()
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
    }
    assert [(case.get("name"), [kind.tag for kind in case]) for case in suite] == [
        ("test_passes", []),
        ("test_fails", ["failure"]),
        ("test_is_skipped", ["skipped"]),
    ]


def row(op: str, workload: str, provider: str, **figures: float) -> Row:
    values = {"median": 1.0, "p20": 1.0, "p80": 1.0, "ratio": 1.0, "fraction_of_limit": 1.0, **figures}
    return Row(op=op, provider=provider, workload=workload, bytes=0, device="", versions="", date="", **values)


def test_aims_are_absent_ok_or_short(tmp_path: Path) -> None:
    rows = [
        row("clip_weights, bandwidth [triton]", "64 M fp32", OURS, fraction_of_limit=0.9),
        row("interpolate, bandwidth [triton]", "64 M fp32", OURS, fraction_of_limit=0.8),
        row("training iteration, auto", "toy MLP, B=256", "textbook", ratio=6.0),
        row("training iteration, auto", "toy MLP, B=256", "textbook, captured", ratio=1.1),
    ]
    write_csv(rows, tmp_path / "gpu_triton.csv")
    outcomes = {aim.name: aim.outcome for aim in aims(gpu.measured_rows(tmp_path))}
    found = {name: outcome for name, outcome in outcomes.items() if outcome != "absent"}
    assert found == {
        "clip_weights [triton], 64 M values: share of a copy's speed": "ok",
        "interpolate [triton], 64 M values: share of a copy's speed": "short",
        "toy MLP, B=256, auto: captured, times the textbook": "ok",
        "toy MLP, B=256, auto: captured, times the textbook, captured too": "short",
    }
    assert asdict(rows[0])["op"] in gpu.measured_rows(tmp_path)[0]["op"]


# ---------------------------------------------------------------- tests and sanitizers


def test_the_workers_of_the_tests_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xdist")
    started: list[int] = []

    def stand_in(command: list[str], limit: float, log: Path, **environment: str) -> dict[str, Any]:
        started.extend((int(command[command.index("-n") + 1]), int(environment["OMP_NUM_THREADS"])))
        return {"ok": True, "output": ["3 passed"]}

    monkeypatch.setattr(gpu, "run", stand_in)
    monkeypatch.setattr(gpu, "CORES", 16)
    monkeypatch.setattr(gpu, "WORKERS", 8)
    assert gpu.tests(tmp_path, 10.0)["ok"]
    assert started == [8, 2]


def test_the_first_sanitizer_has_half_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here none takes any: each leaves its share to the later ones."""
    limits: list[float] = []

    def stand_in(command: list[str], limit: float, log: Path, **environment: str) -> dict[str, Any]:
        limits.append(limit)
        return {"ok": True}

    monkeypatch.setattr(gpu, "run", stand_in)
    monkeypatch.setattr("shutil.which", lambda *names, **options: "compute-sanitizer")
    assert gpu.sanitizers(tmp_path, 100.0)["ok"]
    assert limits == pytest.approx([50, 50, 100], abs=1)


# ---------------------------------------------------------------- critic steps


@pytest.fixture
def traced_steps() -> None:
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch has no trace_autograd_ops, which the compiled steps are measured with")


@pytest.mark.usefixtures("traced_steps")
def test_the_aims_for_critic_steps_name_cases_that_are_measured() -> None:
    measured = {(case.op, case.workload, name) for case, _ in gpu_critics.cases() for name in case.providers}
    assert set(CRITIC_STEPS) <= measured


@pytest.mark.usefixtures("traced_steps")
def test_compiled_steps_are_measured_last_and_beside_ours() -> None:
    order = [(compiled, list(case.providers)) for case, compiled in gpu_critics.cases()]
    assert [compiled for compiled, _ in order] == sorted(compiled for compiled, _ in order)
    for compiled, names in order:
        assert OURS in names
        assert any(name.startswith("torch.compile") for name in names) == compiled


def test_launches_are_counted_once_for_a_step_and_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_critics, "captured", lambda work: work)
    monkeypatch.setattr(gpu_critics, "kernels", lambda work: ["kernel"] * (3 if work is ours.timed else 5))
    ours, theirs = Provider(timed=lambda: 0, result=list), Provider(timed=lambda: 1, result=list)
    case = Case(op="penalty", workload="any", bytes=0, providers={OURS: ours, "textbook": theirs})
    launches = {row.provider: row.launches for row in gpu_critics.measured(case, compiled=False, rounds=2)}
    assert launches == {OURS: 3, f"{OURS}, in a graph": 3, "textbook": 5, "textbook, in a graph": 5}


# ---------------------------------------------------------------- the whole


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("no_cuda")
def test_without_a_device_every_aim_is_absent_and_the_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--parts", "tests", "triton", "cuda", "training", "sanitizers", "--out", str(tmp_path)]) == 1
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert {aim["outcome"] for aim in document["aims"]} == {"absent"}
    printed = capsys.readouterr().out
    assert printed.count("\nabsent ") == len(document["aims"]) > 20
    assert printed.count("skipped: no CUDA device") >= 5


@pytest.mark.usefixtures("no_cuda")
def test_calls_into_one_folder_add_to_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv([row("clip_weights, bandwidth [cuda]", "64 M fp32", OURS)], tmp_path / "gpu_cuda.csv")
    write_csv([row("clip_weights, bandwidth [triton]", "64 M fp32", OURS)], tmp_path / "gpu_triton.csv")
    monkeypatch.setenv("OUT", str(tmp_path))
    gpu.main(["--parts", "training"])
    gpu.main(["--parts", "triton"])
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert set(document["parts"]) == {"environment", "training", "triton"}
    assert [found["op"] for found in document["rows"]] == ["clip_weights, bandwidth [cuda]"], (
        "made anew: triton's are gone"
    )


def test_the_benchmarks_need_neither_tables_nor_a_command_line() -> None:
    """A machine with a GPU has torch, numpy and safetensors, and often no network."""
    absent = "import sys; sys.modules.update(dict.fromkeys(('rich', 'tyro', 'ot', 'matplotlib', 'sklearn', 'yaml')))"
    code = f"{absent}; import benchmarks.gpu, benchmarks.gpu_cases, benchmarks.gpu_critics, benchmarks.gpu_training"
    done = subprocess.run(python(code), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        gpu.main(["--parts", "everything"])
    assert refused.value.code == 2
    assert "invalid choice: 'everything'" in capsys.readouterr().err
