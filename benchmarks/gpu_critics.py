"""Critic steps on a GPU: ``python -m benchmarks.gpu_critics --out FILE``, run by ``benchmarks.gpu``.

The CPU's benchmarks of one pass for scores and gradients, and of critics with norms and smooth activations, on the
device: ours and the users' lines with the number of kernels that each launches, both as CUDA graphs, and the compiled
step at the end, as compiling takes longer than all else. The CSV is written anew after every case.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from benchmarks import bench_fused_second_order, bench_score_and_gradient
from benchmarks.common import Case, Provider, measure
from benchmarks.gpu_cases import captured
from benchmarks.gpu_kernels import kernels
from benchmarks.gpu_rows import Jobs, arguments, measure_all
from benchmarks.schema import OURS, Row

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


def jobs() -> Jobs:
    for case, compiled in cases():
        yield f"{case.op}, {case.workload}", partial(measured, case, compiled)


if __name__ == "__main__":
    options = arguments(__doc__, rounds=15).parse_args()
    measure_all(jobs(), options.rounds, options.out)
