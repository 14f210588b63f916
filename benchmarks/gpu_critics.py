"""Critic steps on a GPU: ``python -m benchmarks.gpu_critics --out FILE``, run by ``benchmarks.gpu``.

The CPU's benchmarks of one pass for scores and gradients, and of critics with norms and smooth activations, on the
device: ours and the users' lines with the number of kernels that each launches, both as CUDA graphs, and the compiled
step at the end, as compiling takes longer than all else. The CSV is written anew after every case.
"""

from __future__ import annotations

import argparse
import itertools
import json
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import bench_fused_second_order, bench_score_and_gradient
from benchmarks.common import Case, Provider, measure
from benchmarks.gpu_cases import captured
from benchmarks.gpu_kernels import kernels
from benchmarks.schema import OURS, Row, write_csv

GRAPH = ", in a graph"


def cases() -> Iterator[tuple[Case, bool]]:
    """Every case as written and captured; then, and only then, every case against its compiled step."""
    benchmarks = [bench_score_and_gradient.cases, bench_fused_second_order.cases]
    for compiled in (False, True):
        for case in itertools.chain.from_iterable(make() for make in benchmarks):
            chosen = {
                name: provider
                for name, provider in case.providers.items()
                if name == OURS or name.startswith("torch.compile") == compiled
            }
            yield replace(case, providers=chosen), compiled


def with_graphs(case: Case) -> Case:
    """The same work captured as well, a graph per provider; the copies in a graph are not verified again."""
    graphs = {f"{name}{GRAPH}": Provider(captured(way.timed), None) for name, way in case.providers.items()}
    return replace(case, providers=case.providers | graphs)


def measured(case: Case, compiled: bool, rounds: int) -> list[Row]:
    if compiled:
        return measure(case, rounds)[1:]  # ours is there for the ratio: it has its row already
    counts = {name: len(kernels(provider.timed)) for name, provider in case.providers.items()}
    rows = measure(with_graphs(case), rounds)
    return [replace(row, launches=counts[row.provider.removesuffix(GRAPH)]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file; problems go beside it, as JSON")
    options = parser.parse_args()
    rows: list[Row] = []
    problems = []
    for case, compiled in cases():
        try:
            fresh = measured(case, compiled, options.rounds)
        except Exception:
            problems.append(f"{case.op}, {case.workload}: {traceback.format_exc(limit=3)}")
            options.out.with_suffix(".problems.json").write_text(json.dumps(problems))
            continue
        rows += fresh
        write_csv(rows, options.out)
        for row in fresh:
            print(f"{row.workload}, {row.provider}: {row.median:.0f} us, {row.ratio:.2f}x, {row.launches} launches")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
