"""SIGKILL at 60 moments, half of them spread over the disk's work: the run always resumes to the same result."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 60


@pytest.mark.needs("ot")
def test_a_run_killed_at_any_moment_resumes_to_the_same_end(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_runs.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(KILLS)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=600)
        finally:
            with contextlib.suppress(ProcessLookupError):  # after a timeout: with the trainers that it has forked
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    assert report["wrong"] == [], err
    assert report["in the disk's work"] == KILLS // 2
    assert report["killed"] >= 0.6 * KILLS  # a run that ends before its moment is not killed
    assert report["operations"] > KILLS // 2  # so every kill is in an operation of its own
