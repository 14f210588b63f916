"""What the GPU benchmarks aim at, as far as arithmetic allows, beside what was measured. Nothing is asserted here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from benchmarks.schema import OURS, Line

BACKENDS = ("triton", "cuda")
DCGAN_CRITIC = "DCGAN-64 critic, 2.76 M in 9"
DCGAN = "DCGAN-64, B=64"
SHARES_OF_THE_COPY = {
    "clip_weights": 0.88,
    "interpolate": 0.88,
    "gradient_norm_penalty": 0.80,
    "RMSprop step + clip": 0.88,
    "Adam step + clip": 0.88,
}
# At most 1.5 times a copy's time.
SECOND_ORDER = {
    "norm_double_backward": ("LayerNorm, 131072x512", "GroupNorm, 512x128x32x32", "InstanceNorm, 1024x64x32x32"),
    "activation_double_backward": ("SiLU, 64 M values", "GELU, 64 M values"),
}
# Times as fast as the textbook's loop, eager, at the same precision. DCGAN-64 is compute-bound.
EAGER_TEXTBOOK = {("toy MLP, B=256", "auto"): 5.0, ("MNIST MLP, B=64", "auto"): 8.0, (DCGAN, "auto"): 1.35}
EAGER_TEXTBOOK |= {(DCGAN, "bf16"): 2.0}
CAPTURED_TEXTBOOK = 1.2
ONE_PASS = "critic step, penalty at the scored samples"
# What the CPU is asked for; the matrix work that is saved is the same on a GPU.
CRITIC_STEPS = {
    (ONE_PASS, "AMP perceptron, B=1024, R1 + R2", "users' lines"): 1.35,
    (ONE_PASS, "AMP perceptron, B=4096, R1 on one batch", "users' lines"): 1.35,
    (ONE_PASS, "grouped residual, 32x32, B=16, relativistic", "users' lines"): 1.45,
    (ONE_PASS, "DCGAN-64, B=32, hinge + R1", "users' lines"): 1.25,
    ("penalty", "perceptron 3x512, LayerNorm, B=256", "textbook"): 1.3,
    ("penalty", "convolutions 32x32, InstanceNorm, B=32", "textbook"): 1.04,
    ("penalty", "convolutions 32x32, SiLU, B=32", "textbook"): 1.08,
}


class Aim(NamedTuple):
    """A figure that should be at least ``least``; ``measured`` is None where its case is missing."""

    name: str
    measured: float | None
    least: float

    @property
    def outcome(self) -> Literal["absent", "ok", "short"]:
        return "absent" if self.measured is None else "ok" if self.measured >= self.least else "short"


def aims(rows: list[Line]) -> Iterator[Aim]:
    found = {(row["op"], row["workload"], row["provider"]): row for row in rows}

    def value(op: str, workload: str, provider: str, column: str) -> float | None:
        row = found.get((op, workload, provider))
        return float(row[column]) if row else None

    for backend in BACKENDS:
        for op, share in SHARES_OF_THE_COPY.items():
            measured = value(f"{op}, bandwidth [{backend}]", "64 M fp32", OURS, "fraction_of_limit")
            yield Aim(f"{op} [{backend}], 64 M values: share of a copy's speed", measured, share)
        for op, workloads in SECOND_ORDER.items():
            for workload in workloads:
                measured = value(f"{op}, bandwidth [{backend}]", workload, OURS, "fraction_of_limit")
                yield Aim(f"{op} [{backend}], {workload}: share of a copy's speed", measured, 1 / 1.5)
        op = f"clip_weights, in a graph [{backend}]"
        share_of_copy = value(op, DCGAN_CRITIC, OURS, "fraction_of_limit")
        yield Aim(f"clip_weights [{backend}], DCGAN-64, in a graph: share of the copy's speed", share_of_copy, 1 / 1.3)
        times = value(op, DCGAN_CRITIC, "foreach pair", "ratio")
        yield Aim(f"clip_weights [{backend}], DCGAN-64, in a graph: times foreach", times, 2.0)
    for (workload, precision), least in EAGER_TEXTBOOK.items():
        op, name = f"training iteration, {precision}", f"{workload}, {precision}: captured, times the textbook"
        yield Aim(name, value(op, workload, "textbook", "ratio"), least)
        captured = value(op, workload, "textbook, captured", "ratio")
        yield Aim(f"{name}, captured too", captured, CAPTURED_TEXTBOOK)
    for (op, workload, theirs), least in CRITIC_STEPS.items():
        yield Aim(f"{workload}: times {theirs}", value(op, workload, theirs, "ratio"), least)
        measured = value(op, workload, f"{theirs}, in a graph", "median")
        captured_ours = value(op, workload, f"{OURS}, in a graph", "median")
        times = measured / captured_ours if measured and captured_ours else None
        yield Aim(f"{workload}, both in a graph: times {theirs}", times, least)
