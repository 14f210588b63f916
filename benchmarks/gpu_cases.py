"""The benchmarks of one GPU backend: ``python -m benchmarks.gpu_cases triton``, usually run by ``benchmarks.gpu``.

Three questions per operation: how much of the device's bandwidth (64 M values, against one large device copy of the
same bytes), how fast on a critic's parameters inside a CUDA graph (against eager PyTorch and a copy, captured in the
same way), and what a call costs the CPU. A replay costs some microseconds itself, more than the shortest kernels: a
graph therefore holds the work 20 times, and times are divided by 20. The CSV is written anew after every case, so
a later failure loses no measurement.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import wgan_fast
from benchmarks import bench_activation_double_backward as activations
from benchmarks import bench_norm_double_backward as norms
from benchmarks.bench_clip_weights import CLIP_VALUE, foreach, loop
from benchmarks.bench_optimizer_step import MOVED
from benchmarks.common import Case, Provider, copy_of, device_name, measure
from benchmarks.gpu_rows import Jobs, arguments, measure_all
from benchmarks.schema import LIMIT, OURS, Row
from benchmarks.workloads import CRITICS, DCGAN_64, MNIST_MLP, Shapes, num_values, weights

# 64 M values: as parameters, and as the gradients or images of a batch.
LARGE: Shapes = [(4 << 20,)] * 16
LARGE_BATCH = (5461, 12288)
BATCHES = [(64, 3, 64, 64), (256, 2)]
DEVICE = torch.device("cuda")

COPIES = 20

Work = Callable[[], object]
Result = Callable[[], Sequence[Tensor]]
Prepare = Callable[[Work, "Result | None"], Provider]


def captured(work: Work, copies: int = 1) -> Work:
    """The work, so many times over, as a graph; what is returned replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            work()

    def replay(keep: Work = work) -> None:  # the graph reads and writes the memory that ``work`` holds
        graph.replay()

    return replay


def in_graph(work: Work, result: Result | None) -> Provider:
    return Provider(captured(work, COPIES), result, COPIES)


def eager(work: Work, result: Result | None) -> Provider:
    return Provider(work, result)


def on_gpu(
    op: str, workload: str, num_bytes: int, prepare: Prepare, providers: dict[str, Provider], tolerance: float = 0.0
) -> Case:
    """A case with a copy of the same bytes, prepared as the others are."""
    limit = prepare(copy_of(num_bytes, DEVICE).timed, None)
    return Case(op, workload, num_bytes, {**providers, LIMIT: limit}, tolerance, DEVICE)


def on_device(shapes: Shapes) -> list[Tensor]:
    return [tensor.detach().to(DEVICE) for tensor in weights(shapes)]


# ------------------------------------------------------------------------------------------------ clip_weights


def clip_case(backend: str, op: str, workload: str, shapes: Shapes, prepare: Prepare) -> Case:
    tensors = on_device(shapes)
    num_bytes = 2 * 4 * num_values(shapes)

    def provider(clip: Callable[[list[Tensor]], object]) -> Provider:
        def result() -> list[Tensor]:
            fresh = on_device(shapes)
            clip(fresh)
            return fresh

        return prepare(lambda: clip(tensors), result)

    providers = {
        OURS: provider(partial(wgan_fast.clip_weights_, clip_value=CLIP_VALUE, backend=backend)),
        "foreach pair": provider(foreach),
        "loop": provider(loop),
    }
    return on_gpu(op, workload, num_bytes, prepare, providers)


# ------------------------------------------------------------------------------------------------- interpolate


def interpolate_case(backend: str, op: str, workload: str, shape: tuple[int, ...], prepare: Prepare) -> Case:
    real, fake = (torch.randn(shape, device=DEVICE) for _ in range(2))
    alpha = torch.rand(shape[0], device=DEVICE)
    column = alpha.view(-1, *[1] * (len(shape) - 1))
    out = torch.empty_like(real)
    num_bytes = 3 * 4 * real.numel()

    def provider(mix: Callable[[], object]) -> Provider:
        def result() -> list[Tensor]:
            out.fill_(torch.nan)
            mix()
            return [out.clone()]

        return prepare(mix, result)

    providers = {
        OURS: provider(lambda: wgan_fast.interpolate(real, fake, alpha, out=out, backend=backend)),
        "torch.lerp": provider(lambda: torch.lerp(fake, real, column, out=out)),
        "textbook": provider(lambda: torch.add(column * real, (1 - column) * fake, out=out)),
    }
    return on_gpu(op, workload, num_bytes, prepare, providers, tolerance=1e-6)


# --------------------------------------------------------------------------------------- gradient_norm_penalty


def penalty_case(backend: str, op: str, workload: str, shape: tuple[int, ...], prepare: Prepare) -> Case:
    """Ours is timed without the backward pass, which only scales: value and slope are both there after the forward."""
    scale = 1.0 / (torch.tensor(shape[1:]).prod().sqrt().item())
    gradients = (torch.randn(shape, device=DEVICE) * scale).requires_grad_()
    num_bytes = 2 * 4 * gradients.numel()

    def ours() -> Tensor:
        penalty: Tensor = wgan_fast.gradient_norm_penalty(gradients, weight=10.0, backend=backend)
        return penalty

    def textbook() -> Tensor:
        penalty: Tensor = 10 * (gradients.flatten(1).norm(2, dim=1) - 1).square().mean()
        return penalty

    def both(penalty: Callable[[], Tensor]) -> list[Tensor]:
        value = penalty()
        return [value.detach(), *torch.autograd.grad(value, gradients)]

    providers = {
        OURS: prepare(ours, lambda: both(ours)),
        "textbook": prepare(lambda: both(textbook), lambda: both(textbook)),
    }
    return on_gpu(op, workload, num_bytes, prepare, providers, tolerance=1e-3)


# ---------------------------------------------------------------------------------------------- optimizer_step


def step_case(backend: str, op: str, workload: str, name: str, shapes: Shapes, prepare: Prepare) -> Case:
    num_bytes = MOVED[name] * 4 * num_values(shapes)

    def ours(params: list[Tensor]) -> Work:
        options = {"lr": 5e-5, "clip_value": CLIP_VALUE, "capturable": True, "backend": backend}
        step: Work = getattr(wgan_fast.optim, name)(params, **options).step
        return step

    def theirs(params: list[Tensor], **options: Any) -> Work:
        optimizer = getattr(torch.optim, name)(params, lr=5e-5, capturable=True, **options)

        def step() -> None:
            optimizer.step()
            foreach(params)

        return step

    def provider(make: Callable[[list[Tensor]], Work]) -> Provider:
        def made() -> tuple[list[Tensor], Work]:
            generator = torch.Generator(DEVICE).manual_seed(7)
            params = [param.requires_grad_() for param in on_device(shapes)]
            for param in params:
                param.grad = torch.randn(param.shape, device=DEVICE, generator=generator)
            return params, make(params)

        def result() -> list[Tensor]:
            params, step = made()
            for _ in range(3):
                step()
            return [param.detach() for param in params]

        return prepare(made()[1], result)

    providers = {
        OURS: provider(ours),
        "foreach + foreach pair": provider(partial(theirs, foreach=True)),
    }
    if name == "Adam":
        providers["fused + foreach pair"] = provider(partial(theirs, fused=True))
    return on_gpu(op, workload, num_bytes, prepare, providers, tolerance=1e-5)


# ----------------------------------------------------------------------------- norms and smooth activations


def second_order_case(make: Callable[..., Case], op: str, *arguments: Any, backend: str) -> Case:
    """A case of the CPU's benchmarks of a double backward, without the compiled form."""
    case = make(*arguments, backend=backend)
    providers = {name: way for name, way in case.providers.items() if not name.startswith("torch.compile")}
    return replace(case, op=op, providers=providers)


def second_order_cases(backend: str) -> Iterator[tuple[str, Callable[[], Case]]]:
    op = "norm_double_backward, bandwidth"
    for norm in (
        ("LayerNorm", (131072, 512), 1),
        ("GroupNorm", (512, 128, 32, 32), 32),
        ("InstanceNorm", (1024, 64, 32, 32), 64),
    ):
        yield op, partial(second_order_case, norms.alone, op, *norm, backend=backend)
    op = "activation_double_backward, bandwidth"
    for name in ("SiLU", "GELU"):
        activation = (activations.alone, op, name, *activations.ALONE[name], 64 << 20)
        yield op, partial(second_order_case, *activation, backend=backend)


# ------------------------------------------------------------------------------------------------------- cases


def cases(backend: str) -> Iterator[tuple[str, Callable[[], Case]]]:
    """A name and a function that makes the case, so that memory is taken when its turn comes."""

    def planned(make: Callable[..., Case], op: str, *rest: Any) -> tuple[str, Callable[[], Case]]:
        return op, partial(make, backend, op, *rest)

    size = "64 M fp32"
    yield planned(clip_case, "clip_weights, bandwidth", size, LARGE, eager)
    yield planned(interpolate_case, "interpolate, bandwidth", size, LARGE_BATCH, eager)
    yield planned(penalty_case, "gradient_norm_penalty, bandwidth", size, LARGE_BATCH, eager)
    for name in ("RMSprop", "Adam"):
        yield planned(step_case, f"{name} step + clip, bandwidth", size, name, LARGE, eager)
    yield from second_order_cases(backend)

    for how, prepare in (("in a graph", in_graph), ("eager", eager)):
        for workload, shapes in CRITICS.items():
            yield planned(clip_case, f"clip_weights, {how}", workload, shapes, prepare)
            yield planned(step_case, f"RMSprop step + clip, {how}", workload, "RMSprop", shapes, prepare)
        workload = "DCGAN-64 critic, 2.76 M in 9"
        yield planned(step_case, f"Adam step + clip, {how}", workload, "Adam", DCGAN_64, prepare)
        for shape in BATCHES:
            workload = "x".join(map(str, shape))
            yield planned(interpolate_case, f"interpolate, {how}", workload, shape, prepare)
            yield planned(penalty_case, f"gradient_norm_penalty, {how}", workload, shape, prepare)

    def on_cpu(make: Callable[[], Case]) -> Case:
        """The same work by the CPU's clock, which does not wait for the device: what a call costs its caller."""
        case = make()
        providers = {name: provider for name, provider in case.providers.items() if name != LIMIT}
        return replace(case, device=torch.device("cpu"), providers=providers, bytes=0)

    cost, workload = "CPU cost of a call", "MNIST MLP critic, 0.53 M in 6"
    for op, make in (
        planned(clip_case, f"clip_weights, {cost}", workload, MNIST_MLP, eager),
        planned(step_case, f"RMSprop step + clip, {cost}", workload, "RMSprop", MNIST_MLP, eager),
        planned(step_case, f"Adam step + clip, {cost}", workload, "Adam", MNIST_MLP, eager),
        planned(interpolate_case, f"interpolate, {cost}", "256x2", (256, 2), eager),
        planned(penalty_case, f"gradient_norm_penalty, {cost}", "256x2", (256, 2), eager),
    ):
        yield op, partial(on_cpu, make)


def jobs(backend: str) -> Jobs:
    def measured(make: Callable[[], Case], rounds: int) -> list[Row]:
        rows = measure(make(), rounds)
        return [replace(row, op=f"{row.op} [{backend}]", device=device_name(DEVICE)) for row in rows]

    for name, make in cases(backend):
        yield name, partial(measured, make)


if __name__ == "__main__":
    parser = arguments(__doc__, rounds=31)
    parser.add_argument("backend", choices=["triton", "cuda"])
    options = parser.parse_args()
    status = wgan_fast.available_backends()[options.backend]
    if not status.available:
        sys.exit(f"{options.backend}: {status.reason}")
    measure_all(jobs(options.backend), options.rounds, options.out)
