"""Two processes do what one does, stop together, and do not outlive one another."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import two_processes
from wgan_fast.cli import main
from wgan_fast.training import Run, UserError
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.loop.distributed import Processes, launched
from wgan_fast.training.run.checkpoint import iterations
from wgan_fast.training.run.log import read_metrics

ROOT = Path(__file__).parents[2]
TINY = "--width 16 --batch-size 8 --n-critic 1 --log-every 2 --no-evaluate"
trains = pytest.mark.needs("rich", "sklearn", "matplotlib", "PIL", "ot")
PATIENCE = 60
"""Seconds until a test gives up, on a machine that has other things to do."""


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@contextlib.contextmanager
def _two(arguments: list[str], folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes with the variables that torchrun would set."""
    port = _free_port()
    both: list[subprocess.Popen[str]] = []
    try:
        for rank in range(2):
            launcher = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
            variables = {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in launcher.items()}
            both.append(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    env=_environment() | variables,
                    cwd=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        yield both
    finally:
        for process in both:
            process.kill()
            process.communicate()


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def _results(both: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    outputs = [process.communicate(timeout=PATIENCE) for process in both]
    return [(process.returncode, out, err) for process, (out, err) in zip(both, outputs, strict=True)]


def _wait_for(path: Path, content: str = "") -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if path.exists() and (not content or content in path.read_text()):
            return
        time.sleep(0.02)
    pytest.fail(f"{path} has not appeared")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process makes of every case, and what two make of it."""
    pytest.importorskip("sklearn", reason="needs sklearn")
    folder = tmp_path_factory.mktemp("two")
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        Run(build_trainer(two_processes.config("gp", 10)), folder / "by-one").train()
        with _two([str(ROOT / "tests" / "training" / "two_processes.py"), str(folder)], folder) as both:
            one = {case: two_processes.trained(case, Processes()) for case in two_processes.CASES}
            results = _results(both)
            assert [code for code, _, _ in results] == [0, 0], results
        resumed = build_trainer(two_processes.config("gp"))
        run = Run(resumed, folder / "by-two")
        run.load()
        run.train()
        one["resumed"] = {"weights": two_processes.weights(resumed)}
    finally:
        torch.set_default_dtype(usual)
    return {"one": one, "two": [torch.load(folder / f"{rank}.pt") for rank in range(2)], "folder": folder}


def _largest_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("case", list(two_processes.CASES))
def test_two_with_half_a_batch_each_equal_one(runs: dict[str, Any], case: str) -> None:
    """After 20 iterations, to the rounding of double precision; both processes hold the same bits."""
    one, two = runs["one"][case], runs["two"][0][case]
    assert _largest_difference(one["weights"], two["weights"]) < 1e-9
    assert _largest_difference(two["weights"], runs["two"][1][case]["weights"]) == 0
    assert one["last"].keys() == two["last"].keys()
    for name, value in one["last"].items():
        assert two["last"][name] == pytest.approx(value, rel=1e-6), name
    assert runs["two"][1][case]["last"] == {}


def test_a_checkpoint_continues_with_another_number_of_processes(runs: dict[str, Any]) -> None:
    expected = runs["one"]["gp"]["weights"]
    assert _largest_difference(runs["two"][0]["resumed"]["weights"], expected) < 1e-9
    assert _largest_difference(runs["one"]["resumed"]["weights"], expected) < 1e-9
    logs = [read_metrics(runs["folder"] / name / "metrics.jsonl") for name in ("by-one", "by-two")]
    assert [[record["iteration"] for record in log] for log in logs] == [[5, 10, 15, 20]] * 2


def test_processes_start_from_the_first_ones_weights(runs: dict[str, Any]) -> None:
    first, second = (found["unlike"]["weights"] for found in runs["two"])
    assert _largest_difference(first, second) == 0


def test_both_go_back_when_one_diverges(runs: dict[str, Any]) -> None:
    first, second = (found["restored"] for found in runs["two"])
    assert first["restores"] == second["restores"] == 1
    assert _largest_difference(first["weights"], second["weights"]) == 0
    assert all(tensor.isfinite().all() for tensor in first["weights"])
    records = read_metrics(runs["folder"] / "restored" / "metrics.jsonl")
    assert [(record["iteration"], record["restores"]) for record in records] == [(5, 1), (10, 1)]


def test_gradients_are_those_of_distributed_data_parallel(runs: dict[str, Any]) -> None:
    assert [found["from DDP"] < 1e-12 for found in runs["two"]] == [True, True]
    assert [found["layout"] for found in runs["two"]] == [True, True]


@trains
def test_a_signal_to_one_stops_both_after_the_same_iteration(tmp_path: Path) -> None:
    command = f"-m wgan_fast train --out run {TINY} --iterations 1000000 --checkpoint-every 1000000"
    with _two(command.split(), tmp_path) as both:
        _wait_for(tmp_path / "run" / "metrics.jsonl", '"iteration": 4')
        both[1].send_signal(signal.SIGINT)
        (code, out, err), other = _results(both)
    assert (code, err) == (128 + signal.SIGTERM, "")
    assert other == (128 + signal.SIGINT, "", "")
    start, reached = iterations(tmp_path / "run")
    assert start == 0
    assert f"stopped at iteration {reached}; --resume --out run continues" in out
    assert main(f"train --out {tmp_path / 'run'} --resume --no-evaluate --iterations {reached + 2}".split()) == 0


@trains
def test_mistakes_are_printed_by_the_first_alone(tmp_path: Path) -> None:
    with _two(f"-m wgan_fast train --out run {TINY} --batch-size 9".split(), tmp_path) as both:
        first, second = _results(both)
    expected = "wgan-fast: --batch-size 9 cannot be shared by 2 processes: it is the batch of all processes"
    assert first[0] == second[0] == 2
    assert first[2].startswith(expected)
    assert first[2].count("\n") == 1
    assert second[1:] == ("", "")
    assert not (tmp_path / "run").exists()


@trains
def test_a_checkpoint_that_cannot_be_written_ends_both(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    with _two(f"-m wgan_fast train --out run --overwrite {TINY}".split(), tmp_path) as both:
        _wait_for(tmp_path / "run" / "config.json")
        (tmp_path / "run" / "checkpoints").write_text("")
        first, second = _results(both)
    assert first[0] == second[0] == 2
    assert first[2].count("\n") == 1
    assert "the checkpoint cannot be written" in first[2]
    assert second[1:] == ("", "")


@trains
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_within_seconds(tmp_path: Path, victim: int) -> None:
    """Under torchrun itself."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={_free_port()}"]
    command = f"-m wgan_fast train --out run {TINY} --iterations 1000000 --checkpoint-every 5".split()
    with subprocess.Popen(
        [*torchrun, *command],
        env=_environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        try:
            _wait_for(tmp_path / "run" / "metrics.jsonl", '"iteration": 12')
            os.kill(_of_rank(_children(launcher), victim), signal.SIGKILL)
            killed = time.monotonic()
            _, err = launcher.communicate(timeout=PATIENCE)
        finally:
            for trainer in _children(launcher):  # they are in sessions of their own, and would outlive the launcher
                os.kill(trainer, signal.SIGKILL)
            launcher.kill()
    assert launcher.returncode == 1
    assert time.monotonic() - killed < 60  # the silence of a process that is alive would last five minutes
    lines = [line for line in err.splitlines() if line.startswith("wgan-fast: ")]
    assert len(lines) == 1
    survivor = 1 - victim
    assert lines[0].startswith(f"wgan-fast: process {survivor} of 2: another process of this run was lost in iteration")
    reached = iterations(tmp_path / "run")[-1]
    assert lines[0].endswith(f"--resume --out run continues from iteration {reached}")
    assert main(f"train --out {tmp_path / 'run'} --resume --no-evaluate --iterations {reached + 4}".split()) == 0
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record["iteration"] for record in records] == list(range(2, reached + 5, 2))


def _children(launcher: subprocess.Popen[str]) -> list[int]:
    listed = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return [int(process) for process in listed.read_text().split()] if listed.exists() else []


def _of_rank(processes: list[int], rank: int) -> int:
    for process in processes:
        if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{process}/environ").read_text():
            return process
    raise AssertionError(f"no process of rank {rank} among {processes}")


def test_a_launcher_that_cannot_serve_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UserError, match="--device cuda:0: several processes use one GPU each; expected cuda"),
        launched("cuda:0"),
    ):
        pass
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(UserError, match="process 99 of this machine has no GPU of its own"), launched("cuda"):
        pass
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="the processes cannot be connected by gloo"), launched("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with launched("cpu") as processes:
        assert (processes.rank, processes.size, processes.first) == (0, 1, True)


def test_random_generators_do_not_depend_on_how_many_there_are(runs: dict[str, Any]) -> None:

    state = torch.load(runs["folder"] / "by-two" / "checkpoints" / "00000010" / "state.pt", weights_only=True)
    other = torch.load(runs["folder"] / "by-one" / "checkpoints" / "00000010" / "state.pt", weights_only=True)
    assert torch.equal(state["data_order"], other["data_order"])
    assert torch.equal(state["random"]["torch"], other["random"]["torch"])
