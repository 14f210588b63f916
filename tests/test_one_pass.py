"""score_and_gradient equals autograd, for every critic and every loss; where it is quick and where it steps aside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from shared_critics import ALL, REFUSED, Lambda, build_any, two_inputs
from torch import Tensor, nn

import wgan_fast
from wgan_fast import score_and_gradient
from wgan_fast.double_backward.flops import count_flops

Way = Callable[..., tuple[Tensor, Any]]
Loss = Callable[[Way, nn.Module, Tensor, tuple[Any, ...]], Tensor]


def autograd(critic: Callable[..., Any], x: Any, *, critic_args: tuple[Any, ...] = (), scaler: Any = None) -> Any:
    """What users write."""
    parts = x if isinstance(x, dict) else dict(enumerate(x)) if isinstance(x, tuple) else {0: x}
    points = {name: v if v.requires_grad else v.detach().requires_grad_() for name, v in parts.items()}
    given = points if isinstance(x, dict) else tuple(points.values()) if isinstance(x, tuple) else points[0]
    scores = critic(given, *critic_args)
    while not isinstance(scores, Tensor):
        scores = scores[0]
    found = torch.autograd.grad(scores.sum(), list(points.values()), create_graph=True, allow_unused=True)
    gradients = dict(zip(points, found, strict=True))
    return scores, gradients if isinstance(x, dict) else tuple(found) if isinstance(x, tuple) else found[0]


def is_quick(scores: Tensor) -> bool:
    """Whether loss and penalty share one backward signal."""
    record = getattr(scores.grad_fn, "record", None)
    if record is not None:
        return record.aligned and not record.curved
    return getattr(getattr(scores.grad_fn, "shared", None), "proven", False)


def sizes(gradients: Tensor) -> Tensor:
    return gradients.flatten(1).square().sum(1)


# ---------------------------------------------------------------- the zoo times the losses


def softplus(way: Way, critic: nn.Module, x: Tensor, args: tuple[Any, ...]) -> Tensor:
    scores, gradients = way(critic, x, critic_args=args)
    return F.softplus(-scores).mean() + 5 * sizes(gradients).mean()


def hinge(way: Way, critic: nn.Module, x: Tensor, args: tuple[Any, ...]) -> Tensor:
    scores, gradients = way(critic, x, critic_args=args)
    return F.relu(1 - scores).mean() + 10 * ((sizes(gradients) + 1e-12).sqrt() - 1).square().mean()


def cross_entropy(way: Way, critic: nn.Module, x: Tensor, args: tuple[Any, ...]) -> Tensor:
    scores, gradients = way(critic, x, critic_args=args)
    labels = torch.ones_like(scores)
    decay = sum(p.square().sum() for p in critic.parameters())
    return F.binary_cross_entropy_with_logits(scores, labels) + sizes(gradients).sum() + 1e-2 * decay


def relativistic(way: Way, critic: nn.Module, x: Tensor, args: tuple[Any, ...]) -> Tensor:
    real, at_real = way(critic, x, critic_args=args)
    fake, at_fake = way(critic, x.flip(0) + 0.5, critic_args=args)
    return F.softplus(fake - real).mean() + 0.5 * (sizes(at_real).mean() + sizes(at_fake).mean())


def twice_the_scores(way: Way, critic: nn.Module, x: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Scores in two terms, gradients in two, and a product of both."""
    scores, gradients = way(critic, x, critic_args=args)
    joint = (
        (scores.flatten(1).sum(1) * sizes(gradients)).mean() if scores.dim() > 1 else (scores * sizes(gradients)).mean()
    )
    return scores.tanh().mean() + scores.square().mean() + gradients.abs().mean() + sizes(gradients).mean() + joint


def scores_alone(way: Way, critic: nn.Module, x: Tensor, args: tuple[Any, ...]) -> Tensor:
    return way(critic, x, critic_args=args)[0].square().mean()


def gradients_alone(way: Way, critic: nn.Module, x: Tensor, args: tuple[Any, ...]) -> Tensor:
    return sizes(way(critic, x, critic_args=args)[1]).mean()


LOSSES: list[Loss] = [softplus, hinge, cross_entropy, relativistic, twice_the_scores, scores_alone, gradients_alone]


def value_and_gradients(loss: Loss, way: Way, critic: nn.Module, x: Tensor, args: tuple[Any, ...]) -> list[Tensor]:
    """The loss and its gradients for all parameters; zeros for None."""
    torch.manual_seed(1)
    critic = copy.deepcopy(critic)
    value = loss(way, critic, x, args)
    parameters = [p for p in critic.parameters() if p.requires_grad]
    return [value.detach(), *torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)]


def assert_equal(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-10) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ALL)
def test_every_critic_and_every_loss_equal_autograd(name: str, loss: Loss) -> None:
    critic, x, args, _ = build_any(name)
    ours = value_and_gradients(loss, score_and_gradient, critic, x, args)
    assert_equal(ours, value_and_gradients(loss, autograd, critic, x, args))
    assert any(bool(g.any()) for g in ours[1:])


@pytest.mark.parametrize("name", ALL)
def test_which_critics_are_quick(name: str) -> None:
    critic, x, args, quick = build_any(name)
    assert is_quick(score_and_gradient(critic, x, critic_args=args)[0]) == quick


@pytest.mark.parametrize("name", ALL)
def test_float32_errs_no_more_than_autograd_does(name: str) -> None:
    critic, x, args, _ = build_any(name, torch.float32)
    exact = value_and_gradients(softplus, autograd, copy.deepcopy(critic).double(), x.double(), args)

    def error(way: Way) -> float:
        found = value_and_gradients(softplus, way, critic, x, args)
        return max(float((a.double() - b).norm() / b.norm().clamp_min(1e-3)) for a, b in zip(found, exact, strict=True))

    assert error(score_and_gradient) <= 2 * error(autograd) + 1e-6


@pytest.mark.parametrize("case", REFUSED)
def test_what_breaks_a_rule_is_refused_and_right(case: str) -> None:
    function, shape, shapes = REFUSED[case]
    torch.manual_seed(0)
    critic, x = Lambda(function, *shapes).double(), torch.randn(shape).double()
    assert not is_quick(score_and_gradient(critic, x)[0])
    for loss in (softplus, gradients_alone, scores_alone):
        ours = value_and_gradients(loss, score_and_gradient, critic, x, ())
        assert_equal(ours, value_and_gradients(loss, autograd, critic, x, ()))


def test_the_same_without_the_broken_rule_is_quick() -> None:
    critic = Lambda(lambda x, w, v: F.relu(x @ w) @ v, (6, 4), (4, 1)).double()
    assert is_quick(score_and_gradient(critic, torch.randn(5, 6).double())[0])


# ---------------------------------------------------------------- FLOPs


def units(name: str, way: Way, loss: Loss = softplus) -> tuple[int, int]:
    """FLOPs of a critic step, and of a forward pass."""
    critic, x, args, _ = build_any(name)
    parameters = list(critic.parameters())

    def step() -> None:
        torch.autograd.grad(loss(way, critic, x, args), parameters, allow_unused=True)

    return count_flops(step), count_flops(lambda: critic(x, *args))


def test_a_perceptron_costs_four_products_per_layer() -> None:
    """The last layer has no tangent. Autograd: two more per layer, but one of the first layer's, which x would want."""
    critic, x, _, _ = build_any("amp")
    products = [2 * len(x) * layer.weight.numel() for layer in critic if isinstance(layer, nn.Linear)]
    assert units("amp", score_and_gradient)[0] == 4 * sum(products) - products[-1]
    assert units("amp", autograd)[0] == 6 * sum(products) - products[-1] - products[0]


def test_a_convolutional_critic_costs_four_convolutions_per_layer() -> None:
    critic, x, _, _ = build_any("dcgan")
    sizes_of = [count_flops(lambda layer=layer, h=h: layer(h)) for layer, h in _layers(critic, x)]
    assert units("dcgan", score_and_gradient)[0] == 4 * sum(sizes_of) - sizes_of[-1]


def _layers(critic: nn.Module, x: Tensor) -> list[tuple[nn.Module, Tensor]]:
    found = []
    for layer in critic:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            found.append((layer, x.detach()))
        x = layer(x.clone())
    return found


@pytest.mark.parametrize("name", [name for name in ALL if name != "checkpointed"])
def test_no_critic_costs_more_than_autograd(name: str) -> None:
    for loss in (softplus, scores_alone, gradients_alone):
        assert units(name, score_and_gradient, loss)[0] <= units(name, autograd, loss)[0]


@pytest.mark.parametrize("name", [name for name in ALL if build_any(name)[3]])
def test_quick_critics_cost_at_most_four_forward_passes(name: str) -> None:
    """Besides what belongs to parameters and labels alone, which has a backward pass of its own."""
    step, forward = units(name, score_and_gradient)
    assert step <= 4 * forward < units(name, autograd)[0] or name in ("groupsort", "shared_graph")


# ---------------------------------------------------------------- how the loss is differentiated


@pytest.fixture
def critic_and_x() -> tuple[nn.Module, Tensor]:
    critic, x, _, _ = build_any("dcgan_not_inplace")
    return critic, x


def accumulated(backward: Callable[[Tensor, Tensor], None], way: Way, critic: nn.Module, x: Tensor) -> list[Tensor]:
    critic = copy.deepcopy(critic)
    scores, gradients = way(critic, x)
    backward(F.softplus(scores).mean(), 3 * sizes(gradients).mean())
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters()]


def _apart(loss: Tensor, penalty: Tensor) -> None:
    loss.backward(retain_graph=True)
    penalty.backward()


def _apart_reversed(loss: Tensor, penalty: Tensor) -> None:
    penalty.backward(retain_graph=True)
    loss.backward()


def _twice(loss: Tensor, penalty: Tensor) -> None:
    (loss + penalty).backward(retain_graph=True)
    (2 * loss + penalty).backward()


def _mixed(loss: Tensor, penalty: Tensor) -> None:
    (loss + penalty).backward(retain_graph=True)
    penalty.backward(retain_graph=True)
    loss.backward()


@pytest.mark.parametrize("backward", [_apart, _apart_reversed, _twice, _mixed])
def test_several_backward_calls(
    backward: Callable[[Tensor, Tensor], None], critic_and_x: tuple[nn.Module, Tensor]
) -> None:
    assert_equal(
        accumulated(backward, score_and_gradient, *critic_and_x), accumulated(backward, autograd, *critic_and_x)
    )


def test_some_parameters_only(critic_and_x: tuple[nn.Module, Tensor]) -> None:
    critic, x = critic_and_x
    parameters = list(critic.parameters())
    for chosen in (parameters[:1], parameters[-1:], parameters[2:4], parameters[1::2]):
        ours, theirs = (
            torch.autograd.grad(softplus(way, critic, x, ()), chosen) for way in (score_and_gradient, autograd)
        )
        assert_equal(list(ours), list(theirs))


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("loss", [softplus, scores_alone, gradients_alone])
def test_x_itself(quick: bool, loss: Loss) -> None:
    critic, x, _, _ = build_any("dcgan" if quick else "instancenorm")
    latent = torch.randn_like(x, requires_grad=True)

    def run(way: Way) -> list[Tensor]:
        points = 2 * latent + x
        value = loss(way, critic, points, ())
        wanted = [latent, *critic.parameters()]
        return list(torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True))

    assert_equal(run(score_and_gradient), run(autograd))
    leaf = [x.clone().requires_grad_() for _ in range(2)]
    for way, point in zip((score_and_gradient, autograd), leaf, strict=True):
        loss(way, critic, point, ()).backward()
    assert_equal([leaf[0].grad], [leaf[1].grad])


def test_derivatives_of_the_derivatives() -> None:
    critic, x, _, _ = build_any("amp")
    parameters = list(critic.parameters())

    def run(way: Way) -> list[Tensor]:
        first = torch.autograd.grad(softplus(way, critic, x, ()), parameters, create_graph=True)
        second = sum(g.square().sum() for g in first)
        return list(torch.autograd.grad(second, parameters))

    assert_equal(run(score_and_gradient), run(autograd))


def test_two_critics_in_one_loss_and_an_accumulated_gradient() -> None:
    first, x, _, _ = build_any("amp")
    second = copy.deepcopy(first).requires_grad_(True)
    with torch.no_grad():
        second[0].weight.mul_(-1)

    def run(way: Way) -> list[Tensor]:
        critics = copy.deepcopy(nn.ModuleList([first, second]))
        for part in x.chunk(2):
            a, at_a = way(critics[0], part)
            b, at_b = way(critics[1], part)
            (F.softplus(a - b).mean() + sizes(at_a).mean() + (sizes(at_a) * sizes(at_b)).mean()).backward()
        return [p.grad for p in critics.parameters()]

    assert_equal(run(score_and_gradient), run(autograd))


def test_frozen_parameters() -> None:
    critic, x, _, _ = build_any("projection")
    args = build_any("projection")[2]
    critic.conv.weight.requires_grad_(False)
    critic.embedding.requires_grad_(False)
    ours = value_and_gradients(softplus, score_and_gradient, critic, x, args)
    assert_equal(ours, value_and_gradients(softplus, autograd, critic, x, args))
    critic.requires_grad_(False)
    scores, gradients = score_and_gradient(critic, x, critic_args=args)
    assert not gradients.requires_grad
    assert torch.equal(scores, critic(x, *args))


def test_without_gradients_the_values_alone(critic_and_x: tuple[nn.Module, Tensor]) -> None:
    critic, x = critic_and_x
    expected = autograd(critic, x)
    with torch.no_grad():
        scores, gradients = score_and_gradient(critic, x)
    assert not scores.requires_grad
    assert not gradients.requires_grad
    assert_equal([scores, gradients], list(expected))


# ---------------------------------------------------------------- inputs and results


@pytest.mark.parametrize("form", [tuple, dict])
def test_several_inputs(form: type) -> None:
    torch.manual_seed(0)
    critic = Lambda(two_inputs, (6, 4), (4, 3), (4,)).double()
    a, b = torch.randn(5, 6).double(), torch.randn(5, 3).double()
    x: Any = (a, b) if form is tuple else {"a": a, "b": b}
    runs = []
    for way in (score_and_gradient, autograd):
        for chosen in (slice(None), slice(0, 1)):
            scores, gradients = way(critic, x)
            assert type(gradients) is form
            parts = list(gradients.values()) if form is dict else list(gradients)
            loss = F.softplus(scores).mean() + sum(sizes(g).mean() for g in parts[chosen])
            runs.append(list(torch.autograd.grad(loss, list(critic.parameters()))))
            assert way is autograd or is_quick(scores)
    assert_equal(runs[0] + runs[1], runs[2] + runs[3])


def test_an_unused_input_has_no_gradient_and_labels_are_passed_on() -> None:
    embedding, linear = nn.Embedding(4, 6), nn.Linear(6, 1)
    x = {"a": torch.randn(5, 6), "unused": torch.randn(5, 2), "labels": torch.arange(5) % 4}
    scores, gradients = score_and_gradient(lambda x: linear(x["a"] + embedding(x["labels"])), x)
    assert gradients["unused"] is None
    assert gradients["labels"] is None
    assert torch.equal(gradients["a"], linear.weight.expand(5, 6))
    assert is_quick(scores)


def test_results_may_be_changed_in_place() -> None:
    critic, x, _, _ = build_any("amp")
    scores, gradients = score_and_gradient(critic, x)
    scores.mul_(2)
    gradients.add_(1)
    loss = scores.sum() + sizes(gradients).mean()
    ours = torch.autograd.grad(loss, list(critic.parameters()))
    scores, gradients = autograd(critic, x)
    theirs = torch.autograd.grad(2 * scores.sum() + sizes(gradients + 1).mean(), list(critic.parameters()))
    assert_equal(list(ours), list(theirs))


def test_a_weight_changed_before_the_backward_pass_is_noticed() -> None:
    critic, x, _, _ = build_any("amp")
    loss = softplus(score_and_gradient, critic, x, ())
    with torch.no_grad():
        critic[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_activation_changed_before_the_backward_pass_is_noticed() -> None:
    kept: list[Tensor] = []
    critic = Lambda(lambda x, w, v: (kept.append(F.relu(x @ w)), kept[-1] @ v)[1], (6, 4), (4, 1))
    loss = softplus(score_and_gradient, critic, torch.randn(5, 6), ())
    with torch.no_grad():
        kept[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_freed_graph_says_so() -> None:
    critic, x, _, _ = build_any("amp")
    loss = softplus(score_and_gradient, critic, x, ())
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ("no", TypeError, "x: expected a tensor, or a tuple or dict of tensors, got str"),
        ((torch.randn(3, 6), 5), TypeError, r"x\[1\]: expected a tensor, got int"),
        (torch.arange(6), TypeError, "x: expected floating-point samples"),
    ],
)
def test_bad_inputs_are_named(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        score_and_gradient(nn.Linear(6, 1), x)


def test_scores_that_ignore_the_input_are_named() -> None:
    with pytest.raises(ValueError, match="scores do not depend on the input"):
        score_and_gradient(lambda x: torch.ones(5, 1, requires_grad=True) * 2, torch.randn(5, 6))
    with pytest.raises(ValueError, match="expected one score"):
        score_and_gradient(lambda x: x.sum(), torch.randn(5, 6))


# ---------------------------------------------------------------- return_scores


def test_penalties_return_scores_last() -> None:
    critic, real, _, _ = build_any("amp")
    fake, alpha = real.flip(0), torch.rand(len(real)).double()
    calls: list[Callable[..., Any]] = [
        lambda **o: wgan_fast.gradient_penalty(critic, real, fake, alpha=alpha, weight=10.0, **o),
        lambda **o: wgan_fast.lipschitz_penalty(critic, real, fake, alpha=alpha, target=0.1, **o),
        lambda **o: wgan_fast.r1_penalty(critic, real, **o),
        lambda **o: wgan_fast.r2_penalty(critic, fake, **o),
        lambda **o: wgan_fast.dragan_penalty(critic, real, generator=torch.Generator().manual_seed(0), **o),
    ]
    mixed = torch.lerp(fake, real, alpha.view(-1, 1))
    places = [mixed, mixed, real, fake, None]
    for call, place in zip(calls, places, strict=True):
        penalty, norms = call(return_norms=True)
        with_scores, scores = call(return_scores=True)
        all_three = call(return_norms=True, return_scores=True)
        assert_equal([with_scores, all_three[0], all_three[1]], [penalty, penalty, norms])
        assert torch.equal(all_three[2], scores)
        assert is_quick(scores)
        if place is not None:
            assert_equal([scores], [critic(place)])


def test_a_loss_with_the_scores_of_its_penalty_equals_autograd() -> None:
    critic, real, _, _ = build_any("r3gan")
    fake = real.flip(0) + 0.3

    def ours() -> Tensor:
        r1, at_real = wgan_fast.r1_penalty(critic, real, weight=0.5, return_scores=True)
        r2, at_fake = wgan_fast.r2_penalty(critic, fake, weight=0.5, return_scores=True)
        return F.softplus(at_fake - at_real).mean() + r1 + r2

    def theirs() -> Tensor:
        (at_real, g_real), (at_fake, g_fake) = autograd(critic, real), autograd(critic, fake)
        return F.softplus(at_fake - at_real).mean() + 0.5 * (sizes(g_real).mean() + sizes(g_fake).mean())

    runs = [[loss := way(), *torch.autograd.grad(loss, list(critic.parameters()))] for way in (ours, theirs)]
    assert_equal(*runs)


def test_without_the_short_cut_scores_come_as_autograd_has_them() -> None:
    critic, real, _, _ = build_any("amp")
    penalty, scores = wgan_fast.r1_penalty(critic, real, return_scores=True, exact_shortcut=False)
    expected = sizes(autograd(critic, real)[1]).mean()
    assert not is_quick(scores)
    assert_equal([penalty, scores], [expected, critic(real)])
