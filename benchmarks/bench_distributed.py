"""Two processes of one thread each against one process, on one machine: whole iterations, and one critic gradient.

Both processes run all the time; while one works alone the other waits, without spinning. Blocks alternate in random
order, one iteration long, and begin together. The limit is half the time of one process with one thread: the column
of the limit is the parallel efficiency. That the results agree is what tests/training/test_distributed.py shows.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.common import device_name, keep_freed_memory, versions
from benchmarks.report import print_table
from benchmarks.schema import OF_THIS_PROCESSOR, OURS, Row, write_csv
from benchmarks.training_workloads import DCGAN, MNIST, N_CRITIC, NEVER, OPTIONS, SAMPLES, TOY, Workload
from wgan_fast.training import Config, Trainer
from wgan_fast.training.data.sets import split
from wgan_fast.training.loop.distributed import Processes, launched

PROCESSES = 2
ONE = "1 process, 1 thread"
THREADED = f"1 process, {PROCESSES} threads"

Block = Callable[[], object]


def make_trainer(load: Workload, processes: Processes) -> Trainer:
    torch.manual_seed(0)
    generator, critic = load.make()
    data = split(load.name, torch.randn(SAMPLES, *load.sample_shape).tanh())
    config = Config(
        sample_shape=load.sample_shape,
        constraint="gp",
        batch_size=load.batch_size,
        latent_dim=load.latent_dim,
        n_critic=N_CRITIC,
        ema_decay=0.0,
        log_every=NEVER,
        **OPTIONS,
    )
    return Trainer(generator, critic, data, config, processes=processes)


def bytes_of(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def iteration_rows(load: Workload, processes: Processes, rounds: int) -> list[Row]:
    """Bytes: what each process contributes to the all-reduces of one iteration."""
    together, alone = make_trainer(load, processes), make_trainer(load, Processes())
    first = processes.first
    blocks: dict[str, Block] = {
        OURS: together.iterate,
        ONE: alone.iterate if first else _nothing,
        THREADED: _threaded(alone.iterate) if first else _nothing,
    }
    times = interleaved(blocks, rounds)
    num_bytes = N_CRITIC * bytes_of(together.critic) + bytes_of(together.generator)
    limit = statistics.median(times[ONE]) / PROCESSES
    return rows("distributed_iteration", load.name, num_bytes, times, limit)


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
    times = interleaved({OURS: ours, "DistributedDataParallel": ddp}, rounds)
    return rows("distributed_gradient", load.name, bytes_of(critic), times, math.nan)


def interleaved(blocks: dict[str, Block], rounds: int) -> dict[str, list[float]]:
    """Microseconds of every block, from a common start to this process's end; the same order in every process."""
    times: dict[str, list[float]] = {name: [] for name in blocks}
    order, shuffle = list(blocks), random.Random(0)
    for number in range(-2, rounds):
        shuffle.shuffle(order)
        for name in order:
            dist.barrier()
            start = time.perf_counter()
            blocks[name]()
            if number >= 0:
                times[name].append((time.perf_counter() - start) * 1e6)
    return times


def rows(op: str, workload: str, num_bytes: int, times: dict[str, list[float]], limit: float) -> list[Row]:
    ours = statistics.median(times[OURS])
    found = []
    for name, samples in times.items():
        p20, *_, p80 = statistics.quantiles(samples, n=5)
        median = statistics.median(samples)
        found.append(
            Row(
                op=op,
                provider=name,
                workload=workload,
                bytes=num_bytes,
                median=median,
                p20=p20,
                p80=p80,
                ratio=median / ours,
                fraction_of_limit=limit / median,
                device=f"{device_name(torch.device('cpu'))}, {PROCESSES} processes",
                versions=versions(),
                date=datetime.date.today().isoformat(),
            )
        )
    return found


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=51, help="interleaved rounds, fewer for long iterations")
    parser.add_argument("--out", type=Path, default=OF_THIS_PROCESSOR, help="folder of the CSV file")
    options = parser.parse_args()
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
