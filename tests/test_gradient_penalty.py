"""The contract of gradient_penalty and its named forms: values, what is left untouched, what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wgan_fast
from wgan_fast import dragan_penalty, gradient_penalty, lipschitz_penalty, r1_penalty, r2_penalty
from wgan_fast.constraints import GradientPenalty, WeightClipping


def mlp(width: int = 6) -> nn.Sequential:
    hidden = [nn.Linear(width, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(16, 1)).double()


def samples(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(shape).double(), torch.randn(shape).double(), torch.rand(shape[0]).double()


def textbook(critic: Callable[[Tensor], Tensor], x: Tensor, target: float = 1.0, one_sided: bool = False) -> Tensor:
    x = x.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    excess = gradients.flatten(1).norm(2, dim=1) - target
    if one_sided:
        excess = excess.clamp(min=0)
    return (excess**2).mean()


def mixed(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return torch.lerp(fake, real, alpha.view(-1, *[1] * (real.dim() - 1)))


def parameter_gradients(loss: Tensor, critic: nn.Module) -> list[Tensor]:
    return [g for g in torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True) if g is not None]


@pytest.mark.parametrize("exact_shortcut", [True, False])
def test_every_form_equals_its_textbook_lines(exact_shortcut: bool, backend: str) -> None:
    critic = mlp()
    real, fake, alpha = samples(7, 6)
    options: dict[str, Any] = {"exact_shortcut": exact_shortcut, "backend": backend}
    x = mixed(real, fake, alpha)
    pairs = [
        (gradient_penalty(critic, real, fake, alpha=alpha, **options), textbook(critic, x)),
        (gradient_penalty(critic, real, fake, alpha=alpha, weight=10.0, **options), 10 * textbook(critic, x)),
        (gradient_penalty(critic, real, fake, alpha=alpha, target=0.3, **options), textbook(critic, x, 0.3)),
        (
            lipschitz_penalty(critic, 9 * real, fake, alpha=alpha, target=0.1, **options),
            textbook(critic, mixed(9 * real, fake, alpha), 0.1, one_sided=True),
        ),
        (r1_penalty(critic, real, **options), textbook(critic, real, 0.0)),
        (r2_penalty(critic, fake, **options), textbook(critic, fake, 0.0)),
    ]
    for mine, theirs in pairs:
        assert torch.allclose(mine, theirs, rtol=1e-12)
        for my_gradient, their_gradient in zip(
            parameter_gradients(mine, critic), parameter_gradients(theirs, critic), strict=False
        ):
            assert torch.allclose(my_gradient, their_gradient, rtol=1e-10, atol=1e-14)


def test_dragan_points_are_those_of_its_authors() -> None:
    critic, (real, _, _) = mlp(), samples(7, 6)
    generator = torch.Generator().manual_seed(4)
    mine = dragan_penalty(critic, real, generator=torch.Generator().manual_seed(4))
    noise = torch.rand(real.shape, dtype=real.dtype, generator=generator)
    alpha = torch.rand(7, dtype=torch.float64, generator=generator)
    x = real + alpha.view(-1, 1) * 0.5 * real.std() * noise
    assert torch.allclose(mine, textbook(critic, x), rtol=1e-12)


@pytest.mark.parametrize("shape", [(5, 6), (5, 2, 3), (5, 1, 2, 3), (5, 1, 1, 2, 3), (1, 6)])
def test_any_rank_equals_its_flattened_twin(shape: tuple[int, ...]) -> None:
    critic = mlp()
    real, fake, alpha = samples(*shape)
    deep = gradient_penalty(nn.Sequential(nn.Flatten(), critic), real, fake, alpha=alpha)
    flat = gradient_penalty(critic, real.flatten(1), fake.flatten(1), alpha=alpha)
    assert torch.allclose(deep, flat, rtol=1e-12)


def test_scores_of_every_shape() -> None:
    critic = mlp()
    real, fake, alpha = samples(5, 6)
    expected = gradient_penalty(critic, real, fake, alpha=alpha)
    column: list[Callable[[Tensor], Any]] = [
        lambda x: critic(x)[:, 0],
        lambda x: critic(x)[:, :, None, None] * torch.ones(2, 3).double() / 6,
        lambda x: (critic(x), "features"),
        lambda x: [critic(x), x],
        lambda x: {"scores": critic(x), "features": x},
        lambda x: ((critic(x), x), x),
    ]
    for form in column:
        assert torch.allclose(gradient_penalty(form, real, fake, alpha=alpha), expected, rtol=1e-12)


def test_labels_and_conditions_are_passed_on() -> None:
    critic = mlp(8)
    real, fake, alpha = samples(5, 6)
    labels, scale = torch.randn(5, 2).double(), torch.tensor(2.0).double()

    def conditional(x: Tensor, labels: Tensor, *, scale: Tensor) -> Tensor:
        return critic(torch.cat([x, labels], dim=1)) * scale

    mine = gradient_penalty(conditional, real, fake, alpha=alpha, critic_args=(labels,), critic_kwargs={"scale": scale})
    theirs = textbook(lambda x: conditional(x, labels, scale=scale), mixed(real, fake, alpha))
    assert torch.allclose(mine, theirs, rtol=1e-12)


def test_nothing_but_the_result_has_changed() -> None:
    critic = mlp()
    critic[0].weight.requires_grad_(False)
    critic[2].weight.grad = torch.ones_like(critic[2].weight)
    real, fake, alpha = samples(5, 6)
    real.requires_grad_()
    fake = fake.requires_grad_() * 2
    before = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in critic.parameters()]
    copies = real.detach().clone(), fake.detach().clone()
    penalty = gradient_penalty(critic, real, fake, alpha=alpha)
    for (flag, grad), parameter in zip(before, critic.parameters(), strict=True):
        assert parameter.requires_grad == flag
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert torch.equal(real, copies[0])
    assert torch.equal(fake, copies[1])
    assert torch.autograd.grad(penalty, real, allow_unused=True, retain_graph=True) == (None,)
    penalty.backward()
    assert real.grad is None


def test_under_no_grad_the_value_alone() -> None:
    critic, (real, fake, alpha) = mlp(), samples(5, 6)
    expected = gradient_penalty(critic, real, fake, alpha=alpha)
    with torch.no_grad():
        value = gradient_penalty(critic, real, fake, alpha=alpha)
    assert not value.requires_grad
    assert torch.allclose(value, expected, rtol=1e-12)


def test_norms_and_reductions() -> None:
    critic, (real, fake, alpha) = mlp(), samples(5, 6)
    singles = [gradient_penalty(critic, real[i : i + 1], fake[i : i + 1], alpha=alpha[i : i + 1]) for i in range(5)]
    unreduced, norms = gradient_penalty(critic, real, fake, alpha=alpha, reduction="none", return_norms=True)
    assert torch.allclose(unreduced, torch.stack(singles), rtol=1e-10)
    assert torch.allclose((norms - 1) ** 2, unreduced, rtol=1e-10)
    assert not norms.requires_grad
    total = gradient_penalty(critic, real, fake, alpha=alpha, reduction="sum")
    assert torch.allclose(total, unreduced.sum(), rtol=1e-10)


def test_a_fake_in_another_precision_is_converted() -> None:
    critic = mlp().float()
    real, fake = torch.randn(5, 6), torch.randn(5, 6)
    alpha = torch.rand(5)
    mine = gradient_penalty(critic, real, fake.bfloat16(), alpha=alpha)
    assert torch.allclose(mine, textbook(critic, mixed(real, fake.bfloat16().float(), alpha)), rtol=1e-5)


def test_the_generator_decides_the_points() -> None:
    critic, (real, fake, _) = mlp(), samples(5, 6)
    one, two, three = (
        gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


@pytest.mark.parametrize("points", ["mixed", "dragan"])
def test_the_points_go_straight_into_their_place(points: Any) -> None:
    critic = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    real, fake = torch.randn(2, 5, 6)
    stacked = torch.cat([real, fake, torch.full_like(real, torch.nan)])
    place = stacked[10:]
    seen: list[Tensor] = []

    def observed(x: Tensor) -> Tensor:
        seen.append(x)
        scores: Tensor = critic(x)
        return scores

    def penalty(real: Tensor, fake: Tensor, out: Tensor | None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(3)
        value = gradient_penalty(observed, real, fake, points=points, generator=generator, out=out)
        return value, *torch.autograd.grad(value, list(critic.parameters())[:-1])

    inside = penalty(stacked[:5], stacked[5:10], place)
    apart = penalty(real, fake, None)
    assert seen[0].data_ptr() == place.data_ptr()
    assert torch.equal(place, seen[1])
    assert torch.equal(stacked[:10], torch.cat([real, fake]))
    assert all(torch.equal(a, b) for a, b in zip(inside, apart, strict=True))


def test_a_place_that_changes_before_the_backward_pass_is_noticed() -> None:
    exponent = torch.tensor(3.0, requires_grad=True)
    real, fake = torch.rand(2, 5, 6)
    out = torch.empty_like(real)
    penalty = gradient_penalty(lambda x: (x**exponent).sum(1), real, fake, out=out)
    wgan_fast.interpolate(real, fake, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        penalty.backward()


@pytest.mark.parametrize("points", ["real", "fake"])
def test_a_place_for_points_that_are_given_is_refused(points: Any) -> None:
    real, fake = torch.randn(2, 5, 6)
    with pytest.raises(ValueError, match=f"out: expected None for points='{points}'"):
        gradient_penalty(nn.Linear(6, 1), real, fake, points=points, out=torch.empty_like(real))


def test_a_critic_with_constant_scores_gives_a_finite_penalty() -> None:
    bias = nn.Parameter(torch.zeros(1))
    real, fake = torch.randn(5, 6), torch.randn(5, 6)
    penalty = gradient_penalty(lambda x: (x * 0).sum(1) + bias, real, fake)
    assert penalty == 1.0
    linear = nn.Linear(6, 1)
    nn.init.zeros_(linear.weight)
    penalty = gradient_penalty(linear, real, fake)
    penalty.backward()
    assert penalty == 1.0
    assert (linear.weight.grad == 0).all()


@pytest.mark.parametrize("return_scores", [False, True])
def test_meta_tensors_pass_through(return_scores: bool) -> None:
    layers = [nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), nn.PReLU()]
    critic = nn.Sequential(*layers, nn.Linear(8, 1)).to("meta")
    real, fake = torch.ones(2, 3, 1, 6, 6, device="meta")
    penalty, *_ = gradient_penalty(critic, real, fake, return_norms=True, return_scores=return_scores)
    penalty.backward()
    assert critic[0].weight.grad.is_meta


def test_batchnorm_warns_in_training_and_not_in_evaluation() -> None:
    critic = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    real, fake = torch.randn(5, 6), torch.randn(5, 6)
    with pytest.warns(UserWarning, match="BatchNorm couples the samples"):
        gradient_penalty(critic, real, fake)
    critic.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient_penalty(critic, real, fake)


@pytest.mark.parametrize(
    ("critic", "options", "error", "message"),
    [
        (None, {}, TypeError, "critic: expected a module or a function, got NoneType"),
        (lambda x: torch.ones(5, 1), {}, ValueError, "scores do not depend on the input"),
        (lambda x: torch.ones(5, 1, requires_grad=True) * 2, {}, ValueError, "scores do not depend on the input"),
        (lambda x: x.detach().sum(1), {}, ValueError, "scores do not depend on the input"),
        (lambda x: x.sum(), {}, ValueError, r"one score .* per sample, shape \(5, ...\), got \(\)"),
        (lambda x: x[:3].sum(1), {}, ValueError, r"got \(3,\)"),
        (lambda x: "no", {}, TypeError, "expected scores as a tensor"),
        (lambda x: x.sum(1) * 1j, {}, TypeError, "expected scores of a floating-point type, got torch.complex64"),
        (lambda x, y: x.sum(1), {"critic_args": torch.ones(1)}, TypeError, "critic_args: .* got Tensor"),
        (lambda x: x.sum(1), {"points": "between"}, ValueError, "points='between'"),
        (lambda x: x.sum(1), {"target": -2.0}, ValueError, "target=-2.0"),
        (lambda x: x.sum(1), {"alpha": torch.ones(3)}, ValueError, "alpha: expected one value per sample"),
    ],
)
def test_bad_critics_and_options_are_named(
    critic: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gradient_penalty(critic, torch.randn(5, 6), torch.randn(5, 6), **options)


@pytest.mark.parametrize(
    ("real", "fake", "error", "message"),
    [
        (torch.randn(5, 6), torch.randn(4, 6), ValueError, r"\(5, 6\).*\(4, 6\)"),
        (torch.randn(5), torch.randn(5), ValueError, r"real: .*at least 2 dimensions, got \(5,\)"),
        (torch.ones(5, 6).int(), torch.randn(5, 6), ValueError, "real: expected floating-point"),
        (torch.randn(5, 6), None, TypeError, "fake: expected a tensor for points='mixed', got NoneType"),
        (None, torch.randn(5, 6), TypeError, "real: expected a tensor for points='mixed', got NoneType"),
    ],
)
def test_bad_samples_are_named(real: Any, fake: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gradient_penalty(mlp().float(), real, fake)


def test_inference_mode_is_refused_with_a_way_out() -> None:
    critic, real = mlp().float(), torch.randn(5, 6)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode\(\).*expected torch.no_grad\(\)"):
        gradient_penalty(critic, real, real)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode\(\)"):
        wgan_fast.score_and_gradient(critic, real)


def test_compiled_critics_are_refused_with_a_way_out() -> None:
    critic = mlp().float()
    real, fake = torch.randn(5, 6), torch.randn(5, 6)
    for compiled in (torch.compile(critic), nn.Sequential(torch.compile(critic)), torch.compile(lambda x: critic(x))):
        with pytest.raises(RuntimeError, match="no double backward; pass the critic as it was before compilation"):
            gradient_penalty(compiled, real, fake)
    in_place = mlp().float()
    in_place.compile()
    with pytest.raises(RuntimeError, match="no double backward"):
        gradient_penalty(in_place, real, fake)


def test_a_compiled_critic_can_be_monitored() -> None:
    critic = mlp().float()
    real, fake, alpha = torch.randn(5, 6), torch.randn(5, 6), torch.rand(5)
    with torch.no_grad():
        compiled = gradient_penalty(torch.compile(critic, backend="aot_eager"), real, fake, alpha=alpha)
        torch.testing.assert_close(compiled, gradient_penalty(critic, real, fake, alpha=alpha))


def test_constraints_give_the_loop_its_penalty_and_its_clip_value() -> None:
    critic, (real, fake, alpha) = mlp(), samples(5, 6)
    penalty, norms = GradientPenalty(weight=10.0).penalty(critic, real, fake, alpha=alpha)
    assert torch.allclose(penalty, 10 * textbook(critic, mixed(real, fake, alpha)), rtol=1e-12)
    assert norms.shape == (5,)
    assert GradientPenalty().clip_value is None
    assert WeightClipping(0.02).clip_value == 0.02
    assert WeightClipping().penalty(critic, real, fake) is None
    with pytest.raises(ValueError, match="clip_value=-1"):
        WeightClipping(-1.0)
    assert wgan_fast.constraints.WeightClipping is WeightClipping
