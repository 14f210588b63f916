"""Two processes of one thread each against one process, on one machine: whole iterations, and one critic gradient.

Both processes run all the time; while one works alone the other waits, without spinning. Blocks alternate in random
order, one iteration long, and begin together. The limit is half the time of one process with one thread: the column
of the limit is the parallel efficiency. That the results agree is what tests/training/test_distributed.py shows.
"""

from __future__ import annotations

import copy
import math
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.common import arguments, device_name, interleaved, keep_freed_memory, rows_of, seconds
from benchmarks.report import print_table
from benchmarks.schema import OURS, Row, write_csv
from benchmarks.training_workloads import DCGAN, MNIST, N_CRITIC, TOY, Workload
from benchmarks.training_workloads import ours as trainer
from wgan_fast.training.loop.distributed import Processes, launched

PROCESSES = 2
ONE = "1 process, 1 thread"
THREADED = f"1 process, {PROCESSES} threads"

Block = Callable[[], object]


def bytes_of(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def iteration_rows(load: Workload, processes: Processes, rounds: int) -> list[Row]:
    """Bytes: what each process contributes to the all-reduces of one iteration."""
    together, alone = trainer(load, processes=processes), trainer(load)
    first = processes.first
    blocks: dict[str, Block] = {
        OURS: together.iterate,
        ONE: alone.iterate if first else _nothing,
        THREADED: _threaded(alone.iterate) if first else _nothing,
    }
    times = together_timed(blocks, rounds)
    num_bytes = N_CRITIC * bytes_of(together.critic) + bytes_of(together.generator)
    limit = statistics.median(times[ONE]) / PROCESSES
    return rows_of("distributed_iteration", load.name, num_bytes, times, dict.fromkeys(times, limit), device())


def gradient_rows(load: Workload, processes: Processes, rounds: int) -> list[Row]:
    """The gradient of the critic's loss on a process's half of the batch, averaged: our way and DDP's."""
    torch.manual_seed(0)
    critic = load.make()[1]
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(critic))
    batch = processes.part(torch.randn(2 * load.batch_size, *load.sample_shape))
    parameters, theirs = list(critic.parameters()), list(wrapped.parameters())

    def ours() -> None:
        gradients = torch.autograd.grad(critic(batch).mean(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        processes.average_gradients(parameters)

    def ddp() -> None:
        wrapped.zero_grad()
        wrapped(batch).mean().backward()

    ours()
    ddp()
    for mine, other in zip(parameters, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    times = together_timed({OURS: ours, "DistributedDataParallel": ddp}, rounds)
    return rows_of("distributed_gradient", load.name, bytes_of(critic), times, dict.fromkeys(times, math.nan), device())


def together_timed(blocks: dict[str, Block], rounds: int) -> dict[str, list[float]]:
    """Seconds of every block, from a common start to this process's end, after two rounds to warm up."""

    def timed(block: Block) -> Callable[[], float]:
        def after_the_barrier() -> float:
            dist.barrier()
            return seconds(block)

        return after_the_barrier

    after_barriers = {name: timed(block) for name, block in blocks.items()}
    interleaved(after_barriers, 2)
    return interleaved(after_barriers, rounds)


def device() -> str:
    return f"{device_name(torch.device('cpu'))}, {PROCESSES} processes"


def _nothing() -> None:
    """What the other process does while one works alone."""


def _threaded(work: Block) -> Block:
    def threaded() -> None:
        torch.set_num_threads(PROCESSES)
        work()
        torch.set_num_threads(1)

    return threaded


def work(rounds: int, out: Path) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    found: list[Row] = []
    with launched("cpu") as processes:
        for load, share in ((TOY, 1.0), (MNIST, 1.0), (DCGAN, 0.15)):
            count = max(5, round(rounds * share))
            found += iteration_rows(load, processes, count)
            found += gradient_rows(load, processes, count)
        if processes.first:
            write_csv(found, out / "distributed.csv")


def main() -> None:
    options = arguments(__doc__, 51, "interleaved rounds, fewer for long iterations").parse_args()
    if "RANK" in os.environ:
        work(options.rounds, options.out)
        return
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = str(place.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(PROCESSES), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env={**os.environ, **shared, "RANK": str(rank)})
        for rank in range(PROCESSES)
    ]
    if any([process.wait() for process in both]):
        sys.exit("a process failed")
    print_table([options.out / "distributed.csv"])


if __name__ == "__main__":
    main()
