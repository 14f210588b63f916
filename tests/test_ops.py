"""The torch.library registrations: opcheck, fakes, torch.compile of whole functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import wgan_fast
from wgan_fast import functional

OPS = torch.ops.wgan_fast


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_clip_weights(dtype: torch.dtype) -> None:
    tensors = [normal(3, 4).to(dtype), normal(100).to(dtype)]
    torch.library.opcheck(OPS.clip_weights_.default, (tensors, -0.1, 0.1, "auto"))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_interpolate(requires_grad: bool) -> None:
    real, fake, alpha = (tensor.requires_grad_(requires_grad) for tensor in (normal(4, 6), normal(4, 6), torch.rand(4)))
    torch.library.opcheck(OPS.interpolate.default, (real, fake, alpha, "auto"))
    torch.library.opcheck(OPS.interpolate.default, (real.t(), fake.t(), torch.rand(6), "auto"))
    torch.library.opcheck(OPS.interpolate.default, (normal(4, 6).t(), normal(6, 4), torch.rand(6), "auto"))


@pytest.mark.parametrize(("activation", "options"), [("silu", []), ("elu", [0.7, 1.0, 1.0]), ("tanh_result", [])])
def test_opcheck_activation_double_backward(activation: str, options: list[float]) -> None:
    images = normal(2, 3, 4, 4).to(memory_format=torch.channels_last)
    for x in (normal(4, 6), images, normal(4, 12)[:, ::2], normal(4, 1).expand(4, 3)):
        arguments = (x, normal(*x.shape), normal(*x.shape), activation, options, "auto")
        torch.library.opcheck(OPS.activation_double_backward.default, arguments)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_opcheck_gradient_norm_penalty(requires_grad: bool, reduction: str) -> None:
    for gradients in (
        normal(4, 6),
        normal(2, 3, 4, 4).to(memory_format=torch.channels_last),
        normal(4, 12)[:, ::2],
    ):
        leaf = gradients.detach().requires_grad_(requires_grad)
        torch.library.opcheck(OPS.gradient_norm_penalty.default, (leaf, 1.0, False, 2.0, reduction, "auto"))


def test_opcheck_steps() -> None:
    def lists(count: int) -> list[list[Tensor]]:
        return [[normal(3, 4).abs(), normal(7).abs()] for _ in range(count)]

    steps = [torch.zeros(()), torch.zeros(())]
    torch.library.opcheck(
        OPS.rmsprop_step_.default, (*lists(5), steps, 0.1, 0.9, 1e-8, 0.0, 0.9, False, -0.1, 0.1, "auto")
    )
    torch.library.opcheck(
        OPS.adam_step_.default, (*lists(5), steps, 0.1, 0.5, 0.9, 1e-8, 0.0, False, False, -0.1, 0.1, "auto")
    )


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


def test_compiled_clip_and_interpolate_and_penalty_equal_eager() -> None:
    weights = [normal(30, 20), normal(20)]

    def step(real: Tensor, fake: Tensor, alpha: Tensor, weights: list[Tensor]) -> Tensor:
        wgan_fast.clip_weights_(weights, 0.1)
        mixed = wgan_fast.interpolate(real, fake, alpha)
        return wgan_fast.gradient_norm_penalty(mixed @ weights[0] + weights[1], target=0.5)

    real, fake, alpha = normal(8, 30), normal(8, 30), torch.rand(8)
    expected = step(real, fake, alpha, [weight.clone() for weight in weights])
    actual = torch.compile(step, fullgraph=True)(real, fake, alpha, weights)
    assert torch.allclose(actual, expected, rtol=1e-5)
    assert weights[0].abs().max() == torch.tensor(0.1)


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_a_compiled_optimizer_step_equals_eager(name: str) -> None:
    def step(params: list[Tensor], grads: list[Tensor], first: list[Tensor], other: list[Tensor]) -> None:
        steps = [torch.zeros(()) for _ in params]
        if name == "rmsprop":
            functional.rmsprop_step_(params, grads, first, [], [], steps, lr=1e-2, clip_value=0.5)
        else:
            functional.adam_step_(params, grads, first, other, [], steps, lr=1e-2, clip_value=0.5)

    lists = [[normal(30, 20), normal(20)] for _ in range(2)] + [[torch.rand(30, 20), torch.rand(20)] for _ in range(2)]
    expected = [[tensor.clone() for tensor in tensors] for tensors in lists]
    step(*expected)
    torch.compile(step, fullgraph=True, backend="aot_eager")(*lists)
    torch.testing.assert_close(lists, expected, rtol=1e-6, atol=1e-7)


def test_compiled_gradients_equal_eager() -> None:
    def loss(gradients: Tensor) -> Tensor:
        return 10 * wgan_fast.gradient_norm_penalty(gradients * 2, one_sided=True)

    eager, compiled = normal(8, 30).requires_grad_(), None
    compiled = eager.detach().clone().requires_grad_()
    loss(eager).backward()
    torch.compile(loss, fullgraph=True)(compiled).backward()
    assert torch.allclose(eager.grad, compiled.grad, rtol=1e-5)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_compiled_activation_double_backward_equals_eager(requires_grad: bool) -> None:
    def both(x: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return functional.activation_double_backward(2 * x, g, v, "gelu")

    x, g, v = (normal(5, 7).requires_grad_(requires_grad) for _ in range(3))
    expected, actual = both(x, g, v), torch.compile(both, fullgraph=True)(x, g, v)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    if requires_grad:
        mine, theirs = (torch.autograd.grad(sum(t.sum() for t in pair), [x, g, v]) for pair in (actual, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_compiled_clip_of_a_module() -> None:
    critic = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1))

    def clip(x: Tensor) -> Tensor:
        with torch.no_grad():
            wgan_fast.clip_weights_(critic, 0.01)
        return critic(x)

    torch.compile(clip, fullgraph=True)(normal(3, 5))
    assert all(param.abs().max() <= 0.01 for param in critic.parameters())


def test_compiled_steps_equal_eager() -> None:
    def run(compile_it: bool) -> list[Tensor]:
        torch.manual_seed(0)
        params, grads, squares, steps = [normal(9)], [normal(9)], [torch.zeros(9)], [torch.zeros(())]
        means = [torch.zeros(9)]

        def both() -> None:
            functional.rmsprop_step_(params, grads, squares, [], [], steps, lr=0.1, clip_value=0.5)
            functional.adam_step_(params, grads, means, squares, [], steps, lr=0.1, clip_value=0.3)

        (torch.compile(both, fullgraph=True) if compile_it else both)()
        return [*params, *squares, *means, *steps]

    for mine, theirs in zip(run(True), run(False), strict=True):
        assert torch.allclose(mine, theirs)
