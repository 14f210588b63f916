"""A whole iteration, five critic steps and a generator step, against the textbook's loop; on the CPU.

Both loops are verified to leave the same weights before they are timed. ``fraction_of_limit`` is the share of the
machine's matrix rate that an iteration reaches: the operations of its matrix products and convolutions over its
time, against a square product of the same type in the same rounds. Beside the speed of bf16 its effect on
the samples is given: their sliced Wasserstein distance to held-out data after short trainings in both types.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.common import arguments, device_name, interleaved, keep_freed_memory, rows_of, seconds
from benchmarks.report import print_table
from benchmarks.schema import OURS, Row, write_csv
from benchmarks.training_workloads import DCGAN, MNIST, TOY, Workload, ours, textbook, verify
from wgan_fast.double_backward.flops import count_flops
from wgan_fast.onednn import product
from wgan_fast.training import Config
from wgan_fast.training.loop.build import build_trainer
from wgan_fast.training.report.metrics import sliced_wasserstein

CPU = torch.device("cpu")
SQUARE = 1024
SECONDS = 75.0  # the most that a workload's rounds may take
QUALITY_SEEDS = 3
QUALITY: dict[str, dict[str, Any]] = {
    "8gaussians": {"width": 128, "iterations": 200},
    "digits": {"width": 128, "iterations": 300},
}


def square_product(dtype: torch.dtype) -> Callable[[], object]:
    """By the fastest way there is: in fp32 torch's own can be half as fast."""
    left, right = (torch.randn(SQUARE, SQUARE).to(dtype) for _ in range(2))
    return lambda: product(left, right)


def measure(load: Workload, rounds: int) -> list[Row]:
    """Rows of one workload: the loops, and what the data of an iteration takes of ours."""
    verify(load)
    images = len(load.sample_shape) == 3
    lowered = f"{OURS}, bf16" + (", channels last" if images else "")
    mine = ours(load)
    loops: dict[str, Callable[[], object]] = {
        OURS: mine.iterate,
        "textbook": textbook(load).iterate,
        lowered: ours(load, precision="bf16", channels_last=images).iterate,
    }
    operations = {name: count_flops(iterate) for name, iterate in loops.items()}
    squares = {dtype: square_product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    everything = loops | {str(dtype): square for dtype, square in squares.items()}
    everything["data"] = lambda: [mine.draws.batch() for _ in range(mine.config.n_critic)]
    warm = sum(seconds(call) for call in everything.values())
    timed = {name: partial(seconds, call) for name, call in everything.items()}
    times = interleaved(timed, max(3, min(rounds, int(SECONDS / warm))))
    medians = {name: statistics.median(samples) for name, samples in times.items()}
    rates = {dtype: 2 * SQUARE**3 / medians[str(dtype)] for dtype in squares}
    limits = {name: operations[name] / rates[torch.bfloat16 if name == lowered else torch.float32] for name in loops}
    rows = rows_of("training iteration", load.name, 0, times, limits, device_name(CPU))
    (data,) = rows_of("training iteration, its data alone", load.name, 0, times, {"data": math.nan}, device_name(CPU))
    rows.append(replace(data, provider=OURS))
    print(
        f"{load.name}: {medians['textbook'] / medians[OURS]:.2f}x the textbook's speed in fp32, "
        f"{medians['textbook'] / medians[lowered]:.2f}x in bf16; "
        f"{rows[0].fraction_of_limit:.2f} of the matrix rate ({rates[torch.float32] / 1e9:.0f} GFLOP/s fp32, "
        f"{rates[torch.bfloat16] / 1e9:.0f} bf16); data {medians['data'] / medians[OURS]:.1%} of an iteration",
        flush=True,
    )
    return rows


def quality() -> list[dict[str, Any]]:
    """Sliced Wasserstein distance to held-out samples after short trainings, a figure a seed."""
    results = []
    for data, options in QUALITY.items():
        for precision in ("fp32", "bf16"):
            distances = []
            for seed in range(QUALITY_SEEDS):
                trainer = build_trainer(Config(data=data, seed=seed, precision=precision, **options))
                trainer.train()
                real = trainer.data.held_out(512, torch.Generator().manual_seed(0))
                distances.append(sliced_wasserstein(trainer.sample(len(real)), real))
            results.append({"data": data, "precision": precision, **options, "sliced_wasserstein": distances})
            figures = ", ".join(f"{distance:.4f}" for distance in distances)
            print(f"{data}, {precision}: sliced Wasserstein distance {figures} (seeds 0 to {QUALITY_SEEDS - 1})")
    return results


def main() -> None:
    options = arguments(__doc__, 31, "interleaved rounds, fewer for long iterations").parse_args()
    keep_freed_memory()
    rows = [row for load in (TOY, MNIST, DCGAN) for row in measure(load, options.rounds)]
    path = options.out / "training_iteration.csv"
    write_csv(rows, path)
    results = quality()
    (options.out / "training_quality.json").write_text(json.dumps(results, indent=1) + "\n")
    print_table([path])


if __name__ == "__main__":
    main()
