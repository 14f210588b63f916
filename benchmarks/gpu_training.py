"""Whole training iterations on a GPU: ``python -m benchmarks.gpu_training --out FILE``, run by ``benchmarks.gpu``.

Ours, replayed as a CUDA graph, against ours eager, the textbook's loop, and the textbook's step compiled: with the
inner gradient traced, with ``torch.func``, and with ``mode="reduce-overhead"``. All providers of a case compute in
the same precision; the loops are first verified to leave the same weights. The CSV is written anew after every case.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.common import Case, Provider, device_name, measure
from benchmarks.schema import OURS, Row, write_csv
from benchmarks.training_workloads import (
    DCGAN,
    DCGAN_256,
    MNIST,
    OPTIONS,
    RESNET,
    TOY,
    Workload,
    ours,
    textbook,
    verify,
)
from wgan_fast.training.precision import AUTOCAST, PrecisionName, autocast, float32_products

OP = "training iteration"
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "tf32", "bf16")
COMPILED = {
    "compiled, inner gradient traced": ("traced", {}),
    "compiled, torch.func": ("func", {}),
    "compiled, reduce-overhead": ("traced", {"mode": "reduce-overhead"}),
}
Gradients = Callable[..., tuple[Tensor, ...]]


def textbook_gradients(form: str, generator: nn.Module, critic: nn.Module) -> tuple[Gradients, Gradients]:
    """The gradients of a critic step and of a generator step, in a form that torch.compile takes whole."""
    weights: dict[str, Tensor] = dict(critic.named_parameters())

    def loss(score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, gradient: Tensor) -> Tensor:
        penalty: Tensor = ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
        lambda_gp: float = OPTIONS["lambda_gp"]
        return score(fake).mean() - score(real).mean() + lambda_gp * penalty

    def mixed(real: Tensor, latent: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        fake = generator(latent).detach()
        return fake, alpha * real + (1 - alpha) * fake

    def traced(real: Tensor, latent: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
        fake, x = mixed(real, latent, alpha)
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return torch.autograd.grad(loss(critic, real, fake, gradient), list(weights.values()))

    def func(real: Tensor, latent: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
        fake, x = mixed(real, latent, alpha)

        def of_weights(parameters: dict[str, Tensor]) -> Tensor:
            def score(samples: Tensor) -> Tensor:
                scores: Tensor = functional_call(critic, parameters, (samples,))
                return scores

            return loss(score, real, fake, torch.func.grad(lambda points: score(points).sum())(x))

        gradients: dict[str, Tensor] = torch.func.grad(of_weights)(weights)
        return tuple(gradients.values())

    def of_generator(latent: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(-critic(generator(latent)).mean(), list(generator.parameters()))

    return (traced if form == "traced" else func), of_generator


def compiled_loop(
    load: Workload, precision: PrecisionName, form: str, device: str = "cuda", **options: Any
) -> Callable[[], None]:
    """The textbook's iteration with both steps' gradients compiled, and torch's fused Adam."""
    book = textbook(load, device=device)
    critic_gradients, generator_gradients = (
        torch.compile(function, **options) for function in textbook_gradients(form, book.generator, book.critic)
    )
    settings = {"lr": OPTIONS["learning_rate"], "betas": OPTIONS["betas"], "fused": True}
    players = [
        (list(network.parameters()), torch.optim.Adam(network.parameters(), **settings))
        for network in (book.critic, book.generator)
    ]

    def step(player: int, compiled: Callable[..., Any], *inputs: Tensor) -> None:
        parameters, optimizer = players[player]
        torch.compiler.cudagraph_mark_step_begin()
        with autocast(torch.device(device).type, AUTOCAST.get(precision)):
            gradients = compiled(*inputs)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    def latent() -> Tensor:
        return torch.randn(load.batch_size, load.latent_dim, device=device)

    def iterate() -> None:
        for _ in range(book.n_critic):
            real, noise = book.batch(), latent()
            alpha = torch.rand(len(real), *[1] * (real.dim() - 1), device=device)
            step(0, critic_gradients, real, noise, alpha)
        step(1, generator_gradients, latent())

    return iterate


def case(load: Workload, precision: PrecisionName) -> Case:
    images = len(load.sample_shape) == 3 and precision == "bf16"
    options: dict[str, Any] = {"device": "cuda", "precision": precision, "channels_last": images}
    device = torch.device("cuda")
    book = textbook(load, device="cuda")

    def under(iterate: Callable[[], object], lowered: torch.dtype | None) -> Callable[[], object]:
        def run() -> None:
            with float32_products(precision, device), autocast("cuda", lowered):
                iterate()

        return run

    captured = ours(load, **{**options, "graph": "on"}).algorithm
    captured.iterate()
    if captured.graphs is None or captured.graphs.failure is not None:
        raise RuntimeError(f"{load.name}, {precision}: the iteration was not captured")
    providers = {
        OURS: Provider(captured.iterate, list),
        f"{OURS}, eager": Provider(ours(load, **options).algorithm.iterate, None),
        "textbook": Provider(under(book.iterate, AUTOCAST.get(precision)), None),
    }
    if precision != "bf16" and load is not DCGAN_256:
        torch._dynamo.config.trace_autograd_ops = True
        for name, (form, settings) in COMPILED.items():
            torch._dynamo.reset()
            loop = under(compiled_loop(load, precision, form, **settings), None)
            try:
                loop()
            except Exception as error:  # of the compiler: the others are still to be measured
                print(f"{load.name}, {name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}", flush=True)
            else:
                providers[name] = Provider(loop, None)
    return Case(op=f"{OP}, {precision}", workload=load.name, bytes=0, providers=providers, device=device)


def cases() -> Iterator[tuple[str, Callable[[], Case]]]:
    """The most telling ones first."""
    order = [(load, "fp32") for load in (TOY, MNIST, DCGAN)]
    order += [(load, precision) for precision in ("tf32", "bf16") for load in (TOY, MNIST, DCGAN, RESNET)]
    order += [(RESNET, "fp32"), *((DCGAN_256, precision) for precision in PRECISIONS)]
    for load, precision in order:
        yield f"{OP}, {load.name}, {precision}", partial(case, load, precision)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file; problems go beside it, as JSON")
    options = parser.parse_args()
    rows: list[Row] = []
    problems = []
    verified: set[str] = set()
    for name, make in cases():
        try:
            load = make.args[0]  # type: ignore[attr-defined]
            if load.name not in verified:
                with float32_products("fp32", torch.device("cuda")):
                    verify(load, "cuda")
                verified.add(load.name)
            measured = measure(make(), options.rounds)
        except Exception:
            problems.append(f"{name}: {traceback.format_exc(limit=3)}")
            measured = []
        rows += [replace(row, device=device_name(torch.device("cuda"))) for row in measured]
        write_csv(rows, options.out)
        options.out.with_suffix(".problems.json").write_text(json.dumps(problems))
        for row in measured:
            print(f"{name}, {row.provider}: {row.median:.0f} us, {row.ratio:.2f}x ours", flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
