"""Whole training iterations on a GPU: ``python -m benchmarks.gpu_training --out FILE``, run by ``benchmarks.gpu``.

Ours, replayed as a CUDA graph, against ours eager, the textbook's loop, the textbook's loop captured in a graph, and
the textbook's step compiled: with the inner gradient traced, with ``torch.func``, and that in "reduce-overhead" mode.
All providers of a case compute in the same precision ("auto": torch's own, TF32 in convolutions); the loops are first
verified to leave the same weights. Compiling takes longer than all else, so the compiled forms follow when every
headline case has its first rows; each is timed in turn with ours. The CSV is written anew after every case.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.common import Case, Provider, measure
from benchmarks.gpu_cases import captured
from benchmarks.gpu_rows import Jobs, arguments, measure_all
from benchmarks.schema import OURS, Row
from benchmarks.textbook import Textbook
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
from wgan_fast.training.step.precision import AUTOCAST, PrecisionName, autocast, float32_products

OP = "training iteration"
HEADLINES: tuple[PrecisionName, ...] = ("auto", "bf16")
PRECISIONS: tuple[PrecisionName, ...] = ("auto", "fp32", "tf32", "bf16")
DEVICE = torch.device("cuda")
COMPILED = {
    "compiled, inner gradient traced": ("traced", {}),
    "compiled, torch.func": ("func", {}),
    "compiled, reduce-overhead": ("func", {"mode": "reduce-overhead"}),
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


def under(precision: PrecisionName, iterate: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with float32_products(precision, DEVICE):
            iterate()

    return run


def made_textbook(load: Workload, precision: PrecisionName) -> Textbook:
    """The textbook's loop with autocast around the forward passes of every step, as scripts have it."""
    return textbook(load, device="cuda", forward=partial(autocast, "cuda", AUTOCAST.get(precision)))


def captured_textbook(load: Workload, precision: PrecisionName) -> Callable[[], object]:
    """The textbook's iteration as one graph, its batches drawn outside and copied in."""
    book = made_textbook(load, precision)
    for group in (*book.optimizer_d.param_groups, *book.optimizer_g.param_groups):
        group["capturable"] = True
    draw = book.batch
    buffers = [draw() for _ in range(book.n_critic)]
    turns = itertools.cycle(buffers)
    book.batch = lambda: next(turns)
    replay = captured(under(precision, book.iterate))

    def iterate() -> None:
        for buffer in buffers:
            buffer.copy_(draw())
        replay()

    return iterate


def captured_ours(load: Workload, precision: PrecisionName) -> Provider:
    trainer = ours(load, **_options(load, precision), graph="on")
    trainer.iterate()
    if trainer.graphs is None or trainer.graphs.failure is not None:
        raise RuntimeError(f"{load.name}, {precision}: the iteration was not captured")
    return Provider(trainer.iterate, list)


def _options(load: Workload, precision: PrecisionName) -> dict[str, Any]:
    images = len(load.sample_shape) == 3 and precision == "bf16"
    return {"device": "cuda", "precision": precision, "channels_last": images}


def as_written(load: Workload, precision: PrecisionName) -> Case:
    """Everything that needs no compiler."""
    providers = {
        OURS: captured_ours(load, precision),
        f"{OURS}, eager": Provider(ours(load, **_options(load, precision), graph="off").iterate, None),
        "textbook": Provider(under(precision, made_textbook(load, precision).iterate), None),
        "textbook, captured": Provider(captured_textbook(load, precision), None),
    }
    return Case(op=f"{OP}, {precision}", workload=load.name, bytes=0, providers=providers, device=DEVICE)


class NotCompiled(Exception):
    """A form that this version of torch does not compile."""


def compiled_form(name: str, load: Workload, precision: PrecisionName) -> Case:
    form, settings = COMPILED[name]
    torch._dynamo.reset()
    try:
        if form == "traced":
            torch._dynamo.config.trace_autograd_ops = True
        loop = under(precision, compiled_loop(load, precision, form, **settings))
        loop()
    except Exception as error:  # the traced form needs torch 2.13: reported, not a failure
        raise NotCompiled(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error
    providers = {OURS: captured_ours(load, precision), name: Provider(loop, None)}
    return Case(op=f"{OP}, {precision}", workload=load.name, bytes=0, providers=providers, device=DEVICE)


class Planned(NamedTuple):
    name: str
    load: Workload
    make: Callable[[], Case]
    with_ours: bool


def cases() -> Iterator[Planned]:
    """The most telling ones first. Ours is timed again beside every compiled form, as the measure of the ratio."""
    headlines = [(load, precision) for precision in HEADLINES for load in (TOY, MNIST, DCGAN)]
    others = [(load, precision) for precision in PRECISIONS[1:3] for load in (TOY, MNIST, DCGAN)]
    others += [(load, precision) for load in (RESNET, DCGAN_256) for precision in PRECISIONS]
    for pairs in (headlines, others):
        for load, precision in pairs:
            name = f"{OP}, {load.name}, {precision}"
            yield Planned(name, load, partial(as_written, load, precision), True)
        for load, precision in pairs:
            for form in COMPILED if load is not DCGAN_256 else ():
                name = f"{OP}, {load.name}, {precision}, {form}"
                yield Planned(name, load, partial(compiled_form, form, load, precision), False)
    # Iterations of further steps follow here.


def jobs() -> Jobs:
    verified: set[str] = set()

    def measured(planned: Planned, rounds: int) -> list[Row]:
        if planned.load.name not in verified:
            with float32_products("fp32", DEVICE):
                verify(planned.load, "cuda")
            verified.add(planned.load.name)
        try:
            rows = measure(planned.make(), rounds)
        except NotCompiled as error:
            print(f"{planned.name}: {error}", flush=True)
            return []
        return rows if planned.with_ours else rows[1:]

    for planned in cases():
        yield planned.name, partial(measured, planned)


if __name__ == "__main__":
    options = arguments(__doc__, rounds=11).parse_args()
    measure_all(jobs(), options.rounds, options.out)
