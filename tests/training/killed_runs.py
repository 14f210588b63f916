"""What test_killed_runs.py starts: ``python killed_runs.py FOLDER KILLS`` kills that many runs and resumes them.

One process imports everything and forks a child for each run: a fork costs milliseconds, an import of torch seconds.
It never uses more than one thread, because OpenMP's threads do not survive a fork.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ot  # noqa: F401 - imported once here, not in every child
import safetensors.torch  # noqa: F401
import torch

from wgan_fast.training import Config, files
from wgan_fast.training.run import checkpoint
from wgan_fast.training.run.checkpoint import iterations, load_checkpoint
from wgan_fast.training.run.folder import Run, read_config

ITERATIONS = 4  # an old checkpoint is deleted after the second and each later one
OPERATIONS = ("fsync", "replace", "mkdir", "unlink", "rmdir")


def config(folder: Path) -> Config:
    small: dict[str, Any] = {"width": 4, "batch_size": 4, "latent_dim": 2, "n_critic": 1, "log_every": 1}
    return Config(data=f"npz:{folder / 'data.npz'}", iterations=ITERATIONS, checkpoint_every=1, **small)


def train(folder: Path, run: Path) -> None:
    """Start the run, or continue it where a checkpoint exists, as a user would after a crash."""
    random.seed(0)  # a forked Python reseeds it otherwise
    if iterations(run):
        resumed = Run.resume(run, read_config(run))
        assert resumed.trainer.iteration == iterations(run)[-1]
        resumed.train()
    else:
        Run.start(run, config(folder), overwrite=True).train()


def outcome(run: Path) -> dict[str, Any]:
    """Everything that must not depend on whether the run was killed."""
    weights, state = load_checkpoint(run)
    return {
        "weights": plain(weights),
        "state": plain(state),
        "files": {name: (run / name).read_text() for name in ("metrics.jsonl", "config.json")},
        "checkpoints": iterations(run)[-2:],
    }


def plain(value: Any) -> Any:
    """Tensors as lists, so that == compares them to the last bit."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


class Saboteur:
    """Counts what a run asks of the disk; in the n-th operation the process kills itself.

    A write is cut in half; before or after the others, by ``late``.
    """

    def __init__(self, fatal: int | None = None, late: bool = False) -> None:
        self.count, self.fatal, self.late = 0, fatal, late
        for name in OPERATIONS:
            setattr(os, name, self._around(getattr(os, name)))
        whole = files.write_through

        def write_through(path: Path, content: bytes) -> None:
            if self._is_fatal():
                path.write_bytes(content[: len(content) // 2])
                die()
            whole(path, content)

        for module in (files, checkpoint):  # checkpoint has imported it by name
            module.write_through = write_through

    def _is_fatal(self) -> bool:
        self.count += 1
        return self.count == self.fatal

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            fatal = self._is_fatal()
            if fatal and not self.late:
                die()
            result = original(*arguments, **options)
            if fatal:
                die()
            return result

        return operation


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def child(work: Callable[[], None], kill_after: float | None = None) -> int:
    """Do the work in a forked process; returns how it ended, -9 if it was killed."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(folder: Path, kills: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    np.savez(folder / "data.npz", x=np.random.default_rng(0).standard_normal((40, 2)).astype("float32"))
    whole = folder / "whole"
    train(folder, folder / "first")  # imports what is imported late, once for all children
    start = time.perf_counter()
    assert child(lambda: train(folder, whole)) == 0
    duration = time.perf_counter() - start
    expected = outcome(whole)

    def counted() -> None:
        saboteur = Saboteur()
        train(folder, folder / "counted")
        (folder / "count").write_text(str(saboteur.count))

    assert child(counted) == 0
    operations = int((folder / "count").read_text())
    chance = random.Random(0)
    report: dict[str, Any] = {"operations": operations, "killed": 0, "in the disk's work": 0, "wrong": []}
    for number in range(kills):
        run = folder / f"run-{number}"
        if number % 2:
            # Spread over all operations, before and after them by turns.
            fatal, late = 1 + number * operations // kills, number % 4 == 3

            def sabotaged(run: Path = run, fatal: int = fatal, late: bool = late) -> None:
                Saboteur(fatal, late)
                train(folder, run)

            ended = child(sabotaged)
            report["in the disk's work"] += ended == -signal.SIGKILL
        else:
            ended = child(lambda run=run: train(folder, run), kill_after=chance.uniform(0, 0.9 * duration))  # type: ignore[misc]
        report["killed"] += ended == -signal.SIGKILL
        resumed = child(lambda run=run: train(folder, run))  # type: ignore[misc]
        if resumed != 0 or outcome(run) != expected:
            report["wrong"].append(str(run))
    return report


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
