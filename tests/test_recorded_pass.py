"""Critics whose pass is recorded: equal to autograd, and not recorded where that would not be equal."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_double_backward_memory import PeakBytes
from test_one_pass import ALL, LOSSES, Loss, Way, assert_equal, autograd, build_any, softplus
from torch import Tensor, nn

from wgan_fast import gradient_penalty, score_and_gradient
from wgan_fast.double_backward import explain
from wgan_fast.double_backward.flops import count_flops
from wgan_fast.double_backward.recorded import recording
from wgan_fast.double_backward.recorded.recording import learn

PIECEWISE_LINEAR = {"mlp", "dcgan", "dcgan_not_inplace", "resnet", "spectral_norm", "amp", "ctgan", "patchgan"}
CURVED = {"mlp_smooth_mixed", "resnet_groupnorm", "layernorm", "instancenorm"}
RECORDED = PIECEWISE_LINEAR | CURVED | {"patchgan_pooled"}


def is_recorded(result: Tensor) -> bool:
    return type(result.grad_fn).__name__ == "_ScoresAndGradientsBackward"


def prepared(name: str) -> tuple[nn.Module, Tensor, tuple[Any, ...]]:
    critic, x, args, _ = build_any(name)
    learn(critic, x, args)
    return critic, x, args


def value_and_gradients(loss: Loss, way: Way, critic: nn.Module, x: Tensor, args: tuple[Any, ...] = ()) -> list[Tensor]:
    torch.manual_seed(1)  # of dropout
    value = loss(way, critic, x, args)
    parameters = list(critic.parameters())
    return [value, *torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)]


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1)).double()


def samples(batch: int = 4) -> Tensor:
    return torch.randn(batch, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------------------- equal to autograd


@pytest.mark.parametrize("name", ALL)
def test_which_critics_are_recorded(name: str) -> None:
    critic, x, args = prepared(name)
    assert is_recorded(score_and_gradient(critic, x, critic_args=args)[0]) == (name in RECORDED)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded_critics_equal_autograd(name: str, loss: Loss) -> None:
    critic, x, args = prepared(name)
    twin = copy.deepcopy(critic)  # spectral norm changes with every pass
    found = value_and_gradients(loss, score_and_gradient, critic, x, args)
    assert recording._known[critic], "its passes were given up"
    assert_equal(found, value_and_gradients(loss, autograd, twin, x, args))


def test_the_first_pass_is_computed_in_the_other_ways_and_the_second_is_recorded() -> None:
    critic, x = perceptron(), samples()
    assert not is_recorded(score_and_gradient(critic, x)[0])
    assert is_recorded(score_and_gradient(critic, x)[0])


@pytest.mark.parametrize(("name", "recorded"), [("mlp", True), ("layernorm", True), ("batchnorm", False)])
def test_explain_says_whether_a_critic_is_recorded(name: str, recorded: bool) -> None:
    critic, x, args, _ = build_any(name)
    told = explain(critic, x, critic_args=args)
    assert told.recorded == recorded
    assert f"recorded from its second pass on: {'yes' if recorded else 'no'}" in str(told)


def textbook(critic: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()


def ours(critic: nn.Module, x: Tensor) -> Tensor:
    return gradient_penalty(critic, x, None, points="real")


def test_a_penalty_alone_leaves_the_last_bias_without_a_gradient_and_the_others_with_zeros() -> None:
    critic, x = perceptron(), samples()
    learn(critic, x)
    ours(critic, x).backward()
    found = [p.grad for p in critic.parameters()]
    critic.zero_grad()
    textbook(critic, x).backward()
    for a, p in zip(found, critic.parameters(), strict=True):
        assert (a is None) == (p.grad is None)
        if a is not None:
            torch.testing.assert_close(a, p.grad, rtol=1e-12, atol=1e-15)


class Residual(nn.Module):
    """Every kind of call: a residual path, a side with a graph, dropout, padding, pooling, scales, sums."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, groups=2)
        self.bias, self.scale = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4, 4))
        self.head = nn.Linear(4, 1)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x) - 0.5 * x.mean((1,), keepdim=True).reshape(len(x), 1, 6, 6) * 1.5, 0.2)
        h = self.dropout(h) / 2 + F.relu(h)
        h = self.second(F.pad(h, (1, 0, 1, 0))) + self.bias.exp().view(1, -1, 1, 1)
        h = F.avg_pool2d(h, 2, 1).contiguous().sum(dim=[2, 3]).unsqueeze(0).squeeze(0)
        return self.head(F.linear(h, self.scale.tanh())).flatten()


@pytest.mark.parametrize("way", ["scores_and_gradients", "penalty"])
def test_every_kind_of_call_equals_autograd(way: str) -> None:
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    critic = Residual().double()
    critic.first.register_forward_hook(lambda module, inputs, output: output.reshape(output.shape))
    learn(critic, x)

    ways = (ours, textbook)
    if way == "scores_and_gradients":
        ways = tuple(partial(softplus, each, args=()) for each in (score_and_gradient, autograd))
    losses = []
    for loss in ways:
        torch.manual_seed(3)  # of dropout
        losses.append(loss(critic, x=x))
        assert recording._known[critic], "a call was not recorded"
    found, expected = losses
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    parameters = list(critic.parameters())
    got = torch.autograd.grad(found, parameters, allow_unused=True)
    for a, b in zip(got, torch.autograd.grad(expected, parameters, allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_derivatives_of_the_gradients_are_right_to_any_order() -> None:
    critic, x = perceptron(), samples()
    learn(critic, x)

    def third(way: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor]:
        scores, gradients = way(critic, x)
        loss = scores.exp().mean() + gradients.square().sum(1).square().mean()
        first = torch.autograd.grad(loss, list(critic.parameters()), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), list(critic.parameters()), create_graph=True)
        return list(torch.autograd.grad(sum(g.sin().sum() for g in second), list(critic.parameters())))

    found = third(score_and_gradient)
    assert is_recorded(score_and_gradient(critic, x)[0])
    assert_equal(found, third(autograd))


def test_an_input_that_requires_grad_has_its_gradient_in_its_own_graph() -> None:
    critic, x = perceptron(), samples()
    learn(critic, x)

    def gradient(way: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        leaf = x.clone().requires_grad_()
        scores, gradients = way(critic, leaf * leaf)
        (scores.exp().mean() + gradients.square().sum()).backward()
        assert leaf.grad is not None
        return leaf.grad

    def textbook_at(critic: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = critic(x)
        return scores, torch.autograd.grad(scores.sum(), x, create_graph=True)[0]

    assert_equal([gradient(score_and_gradient)], [gradient(textbook_at)])


def test_several_inputs_one_of_which_the_scores_ignore() -> None:
    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 1), nn.Linear(5, 1)

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return F.relu(self.a(x["a"])) - self.b(x["b"])

    torch.manual_seed(0)
    critic = Critic().double()
    x = {name: torch.randn(4, n, dtype=torch.float64) for name, n in (("a", 3), ("b", 5), ("unused", 2))}
    score_and_gradient(critic, x)
    scores, gradients = score_and_gradient(critic, x)
    assert is_recorded(scores)
    assert gradients["unused"] is None
    assert gradients["a"] is not None
    assert gradients["b"] is not None
    (scores.square().sum() + gradients["a"].square().sum()).backward()
    found = [p.grad for p in critic.parameters()]
    critic.zero_grad()
    leaf = x["a"].clone().requires_grad_()
    scores = critic(x | {"a": leaf})
    (g,) = torch.autograd.grad(scores.sum(), leaf, create_graph=True)
    (scores.square().sum() + g.square().sum()).backward()
    for a, p in zip(found, critic.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-12, atol=1e-12)


def test_frozen_parameters_have_no_gradient_and_the_others_their_own() -> None:
    critic, x = perceptron(), samples()
    critic[2].requires_grad_(False)
    learn(critic, x)
    parameters = [p for p in critic.parameters() if p.requires_grad]
    found = torch.autograd.grad(softplus(score_and_gradient, critic, x, ()), parameters)
    assert_equal(list(found), list(torch.autograd.grad(softplus(autograd, critic, x, ()), parameters)))
    assert critic[2].weight.grad is None


def test_the_gradient_of_one_parameter_alone_costs_less_than_that_of_all() -> None:
    critic, x = perceptron(), samples()
    learn(critic, x)

    def cost(parameters: list[nn.Parameter]) -> int:
        return count_flops(lambda: torch.autograd.grad(softplus(score_and_gradient, critic, x, ()), parameters))

    assert cost([critic[0].weight]) < cost(list(critic.parameters()))


# ------------------------------------------------------------------------------------------- what is not recorded


class Critic(nn.Module):
    """The perceptron with something in between, and what it left outside."""

    def __init__(self, between: Callable[[Critic, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers, self.between = perceptron(), between
        self.square = nn.Parameter(torch.randn(8, 8, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(3, 8, dtype=torch.float64))
        self.left: Any = None
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        h = self.between(self, self.layers[:2](x))
        scores: Tensor = self.layers[2:](h)
        return scores


class Doubled(torch.autograd.Function):
    """What PyTorch's function modes do not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def leave(critic: Critic, h: Tensor) -> Tensor:
    critic.left = h
    return h


def leave_a_view(critic: Critic, h: Tensor) -> Tensor:
    critic.left = [h.view(-1)]
    return h


def use_elsewhere(critic: Critic, h: Tensor) -> Tensor:
    critic.left = Doubled.apply(h)
    return h


def use_here(critic: Critic, h: Tensor) -> Tensor:
    return h + Doubled.apply(h)


def half_without_a_graph(critic: Critic, h: Tensor) -> Tensor:
    with torch.no_grad():
        constant = h * 2
    return h + constant


def hook(critic: Critic, h: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda grad: 2 * grad)
    return h


def branch(critic: Critic, h: Tensor) -> Tensor:
    return h * 2 if float(h.detach().sum()) > 1e9 else h


def look(critic: Critic, h: Tensor) -> Tensor:
    critic.left = h.detach().mean()
    return h


def forked(critic: Critic, h: Tensor) -> Tensor:
    h = F.linear(h, critic.square)
    a = h + critic.layers[0].bias
    return F.relu(h) + F.relu(a)


def forked_through_a_view(critic: Critic, h: Tensor) -> Tensor:
    h = F.linear(h, critic.square)
    flat = h.view(len(h), 2, -1)
    return F.leaky_relu(h, 0.3) - F.relu(flat).reshape(h.shape)


def doubled(critic: Critic, h: Tensor) -> Tensor:
    return (h + h) - h.flatten(1) * 0.5


def something_unused(critic: Critic, h: Tensor) -> Tensor:
    F.linear(h, critic.unused)
    return h


@pytest.mark.parametrize("between", [forked, forked_through_a_view, doubled, something_unused])
def test_forks_equal_autograd(between: Any) -> None:
    critic, x = Critic(between), samples()
    assert learn(critic, x)
    for loss in LOSSES:
        found = value_and_gradients(loss, score_and_gradient, critic, x)
        assert_equal(found, value_and_gradients(loss, autograd, critic, x))
    assert recording._known[critic]


def test_a_parameter_that_does_not_enter_the_scores_has_no_gradient() -> None:
    critic, x = Critic(something_unused), samples()
    learn(critic, x)
    softplus(score_and_gradient, critic, x, ()).backward()
    assert recording._known[critic]
    assert critic.unused.grad is None


def test_a_critic_that_flattens_vectors_is_recorded() -> None:
    critic = nn.Sequential(nn.Flatten(), *perceptron())
    assert learn(critic, samples())
    found = value_and_gradients(softplus, score_and_gradient, critic, samples())
    assert recording._known[critic]
    assert_equal(found, value_and_gradients(softplus, autograd, critic, samples()))


UNSUITABLE = [
    leave,
    leave_a_view,
    use_elsewhere,
    use_here,
    half_without_a_graph,
    hook,
    branch,
    look,
    lambda c, h: h.sin(),
]


@pytest.mark.parametrize("between", UNSUITABLE)
def test_a_critic_that_does_something_else_is_not_recorded_and_equals_autograd(between: Any) -> None:
    critic, x = Critic(between), samples()
    for _ in range(2):
        found = value_and_gradients(softplus, score_and_gradient, critic, x)
        assert_equal(found, value_and_gradients(softplus, autograd, critic, x))
        assert not is_recorded(score_and_gradient(critic, x)[0])
    assert critic.passes == 6


@pytest.mark.parametrize("between", UNSUITABLE)
def test_a_recorded_critic_that_later_does_something_else_equals_autograd_at_once(between: Any) -> None:
    critic, x = Critic(lambda critic, h: h * 1), samples()
    learn(critic, x)
    assert is_recorded(score_and_gradient(critic, x)[0])
    critic.between = between
    found = value_and_gradients(softplus, score_and_gradient, critic, x)
    assert_equal(found, value_and_gradients(softplus, autograd, critic, x))
    passes = critic.passes
    score_and_gradient(critic, x)
    assert critic.passes == passes + 1


def test_what_a_critic_leaves_behind_keeps_its_graph() -> None:
    critic, x = Critic(lambda critic, h: h), samples()
    learn(critic, x)
    critic.between = leave
    scores, _ = score_and_gradient(critic, x)
    (scores.sum() + critic.left.square().sum()).backward()
    found = critic.layers[0].weight.grad
    critic.zero_grad()
    (critic(x).sum() + critic.left.square().sum()).backward()
    torch.testing.assert_close(found, critic.layers[0].weight.grad, rtol=1e-12, atol=1e-12)


def test_autocast_is_left_to_the_other_ways() -> None:
    critic, x = perceptron().float(), samples().float()
    learn(critic, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_recorded(score_and_gradient(critic, x)[0])


def test_an_error_of_the_critics_own_is_raised() -> None:
    critic, x = Critic(lambda critic, h: h), samples()
    learn(critic, x)

    def fail(critic: Critic, h: Tensor) -> Tensor:
        raise LookupError("of the critic's own")

    critic.between = fail
    with pytest.raises(LookupError, match="of the critic's own"):
        score_and_gradient(critic, x)


def test_a_shape_that_does_not_fit_raises_torchs_error() -> None:
    critic = perceptron()
    learn(critic, samples())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        score_and_gradient(critic, torch.randn(4, 7, dtype=torch.float64))


def test_parameters_changed_in_place_before_the_backward_pass_are_noticed() -> None:
    critic, x = perceptron(), samples()
    learn(critic, x)
    loss = softplus(score_and_gradient, critic, x, ())
    with torch.no_grad():
        critic[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ------------------------------------------------------------------------------------------------ state and memory


def test_learning_changes_neither_the_critic_nor_the_random_state() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(5, 8)), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1)
    ).double()
    state, random = copy.deepcopy(critic.state_dict()), torch.get_rng_state()
    learn(critic, samples())
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in critic.state_dict().items():
        assert torch.equal(value, state[name])
    assert recording._known[critic]


def test_dropout_draws_what_torch_draws() -> None:
    critic = nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.4), nn.Linear(64, 1)).double()
    learn(critic, samples())
    torch.manual_seed(1)
    found = score_and_gradient(critic, samples())[0]
    assert is_recorded(found)
    torch.manual_seed(1)
    assert torch.equal(found, critic(samples()))


def test_nothing_keeps_a_critic_or_its_values_alive() -> None:
    critic, x = perceptron(), samples()
    learn(critic, x)
    seen: list[weakref.ref[Tensor]] = []
    critic[1].register_forward_hook(lambda module, inputs, output: seen.append(weakref.ref(output)))
    gc.disable()
    try:
        scores, gradients = score_and_gradient(critic, x)
        assert is_recorded(scores)
        del scores, gradients
        assert seen[-1]() is None
        reference = weakref.ref(critic)
        del critic
        assert reference() is None
    finally:
        gc.enable()


def test_a_second_backward_pass_needs_the_graph_to_be_retained() -> None:
    critic, x = perceptron(), samples()
    learn(critic, x)
    loss = softplus(score_and_gradient, critic, x, ())
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in critic.parameters()]
    loss.backward()
    assert_equal([p.grad for p in critic.parameters()], [2 * g for g in first])
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


@pytest.mark.parametrize("name", ["amp", "dcgan", "resnet", "patchgan_pooled", *sorted(CURVED)])
def test_peak_memory_is_not_above_autograds(name: str) -> None:
    critic, x, args = prepared(name)
    x, args = x.repeat(8, *[1] * (x.dim() - 1)), tuple(arg.repeat(8) for arg in args)
    peaks = []
    for way in (score_and_gradient, autograd):
        with PeakBytes() as memory:
            value_and_gradients(softplus, way, critic, x, args)
        peaks.append(memory.peak)
    assert recording._known[critic]
    assert 0 < peaks[0] <= 1.02 * peaks[1]


CURVED_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "elu": lambda: nn.ELU(0.7),
    "celu": lambda: nn.CELU(0.7),
    "selu": nn.SELU,
    "softplus": lambda: nn.Softplus(2.0),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "softsign": nn.Softsign,
    "logsigmoid": nn.LogSigmoid,
    "layer_norm": lambda: nn.LayerNorm(8),
    "layer_norm_without_weight": lambda: nn.LayerNorm(8, elementwise_affine=False),
    "layer_norm_without_bias": lambda: nn.LayerNorm(8, bias=False),
    "rms_norm": lambda: nn.RMSNorm(8),
    "group_norm": lambda: nn.GroupNorm(2, 8),
    "instance_norm": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()),
}


def curved(name: str) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 8), CURVED_LAYERS[name](), nn.Linear(8, 8), nn.LeakyReLU(0.2), CURVED_LAYERS[name]()]
    critic = nn.Sequential(*layers, nn.Linear(8, 1)).double()
    for parameter in critic.parameters():  # the weights of a norm are ones
        nn.init.normal_(parameter, std=0.7)
    return critic


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CURVED_LAYERS)
def test_each_smooth_activation_and_norm_equals_autograd(name: str, loss: Loss) -> None:
    critic, x = curved(name), samples()
    assert learn(critic, x)
    found = value_and_gradients(loss, score_and_gradient, critic, x)
    assert recording._known[critic]
    assert_equal(found, value_and_gradients(loss, autograd, critic, x))


@pytest.mark.parametrize("name", CURVED_LAYERS)
def test_the_gradient_at_an_input_goes_through_smooth_activations_and_norms(name: str) -> None:
    critic, x = curved(name), samples()
    learn(critic, x)
    gradients = []
    for way in (score_and_gradient, None):
        leaf = x.clone().requires_grad_()
        if way is None:
            scores = critic(leaf)
            (slopes,) = torch.autograd.grad(scores.sum(), leaf, create_graph=True)
        else:
            scores, slopes = way(critic, leaf)
        gradients.append(torch.autograd.grad(scores.exp().mean() + slopes.square().sum(), leaf)[0])
    assert_equal(gradients[:1], gradients[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["amp", "dcgan", "layernorm", "mlp_smooth_mixed"])
def test_other_dtypes_err_no_more_than_autograd_does(name: str, dtype: torch.dtype) -> None:
    critic, x, args = prepared(name)
    exact = value_and_gradients(softplus, autograd, critic, x, args)
    critic, x = critic.to(dtype), x.to(dtype)
    learn(critic, x, args)

    def error(way: Way) -> float:
        found = value_and_gradients(softplus, way, critic, x, args)
        return max(float((a.double() - b).norm() / b.norm().clamp_min(1e-3)) for a, b in zip(found, exact, strict=True))

    assert error(score_and_gradient) <= 2 * error(autograd) + 1e-6
    assert recording._known[critic]
