"""One pass among everything else: autocast, GradScaler, DDP, memory, hooks, modes, threads, registered operations."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from shared_critics import Lambda, build_any
from test_double_backward_memory import PeakBytes
from test_one_pass import assert_equal, autograd, is_quick, sizes, softplus, value_and_gradients
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from wgan_fast import score_and_gradient
from wgan_fast.double_backward import exact_shortcut, explain, least_work, register_piecewise_linear

# ---------------------------------------------------------------- mixed precision


def relative_error(found: list[Tensor], exact: list[Tensor]) -> float:
    flat, flat_exact = (torch.cat([g.double().flatten() for g in gs[1:]]) for gs in (found, exact))
    return float((flat - flat_exact).norm() / flat_exact.norm())


@pytest.mark.parametrize("name", ["amp", "dcgan", "r3gan", "projection", "sequence", "layernorm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_errs_no_more_than_autograd_does(name: str, dtype: torch.dtype) -> None:
    critic, x, args, quick = build_any(name, torch.float32)
    exact = value_and_gradients(softplus, autograd, copy.deepcopy(critic).double(), x.double(), args)
    with torch.autocast("cpu", dtype=dtype):
        assert is_quick(score_and_gradient(critic, x, critic_args=args)[0]) == quick
        theirs = value_and_gradients(softplus, autograd, critic, x, args)
        ours = value_and_gradients(softplus, score_and_gradient, critic, x, args)
    assert relative_error(ours, exact) <= 2 * relative_error(theirs, exact) + 1e-3


@pytest.mark.parametrize("name", ["amp", "dcgan", "instancenorm"])
def test_a_scaler_scales_scores_and_gradients_alike(name: str) -> None:
    critic, x, _, _ = build_any(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

    def scaled(critic: nn.Module, x: Tensor, critic_args: tuple[Any, ...] = ()) -> tuple[Tensor, Tensor]:
        return score_and_gradient(critic, x, critic_args=critic_args, scaler=scaler)

    def loss(way: Any, critic: nn.Module, x: Tensor, args: tuple[Any, ...]) -> Tensor:
        return 2.0**12 * softplus(way, critic, x, args)

    ours = value_and_gradients(loss, scaled, critic, x, ())
    assert_equal([g / 2.0**12 for g in ours], value_and_gradients(softplus, autograd, critic, x, ()))


# ---------------------------------------------------------------- several processes


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    least_work.SHORTCUT = least_work.ONE_PASS = 0  # as in the parent
    critic, x, _, _ = build_any("amp")
    model = DistributedDataParallel(critic, broadcast_buffers=False)
    scores, gradients = score_and_gradient(model, x[rank * 3 : rank * 3 + 3])
    assert is_quick(scores)
    (F.softplus(-scores).mean() + sizes(gradients).mean()).backward()
    torch.save([p.grad for p in critic.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_the_joined_batch(tmp_path: Any) -> None:
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    critic, x, _, _ = build_any("amp")
    scores, gradients = autograd(critic, x)
    (F.softplus(-scores).mean() + sizes(gradients).mean()).backward()
    for rank in range(2):
        assert_equal(torch.load(tmp_path / f"{rank}.pt"), [p.grad for p in critic.parameters()])


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("name", ["amp", "dcgan", "r3gan", "resnet", "projection", "layernorm", "stylegan"])
def test_peak_memory_is_not_above_autograds(name: str) -> None:
    critic, x, args, _ = build_any(name)
    parameters = list(critic.parameters())
    repeated = x.repeat(8, *[1] * (x.dim() - 1))
    args = tuple(arg.repeat(8) for arg in args)
    peaks = []
    for way in (score_and_gradient, autograd):
        with PeakBytes() as memory:
            torch.autograd.grad(softplus(way, critic, repeated, args), parameters, allow_unused=True)
        peaks.append(memory.peak)
    assert 0 < peaks[0] <= 1.02 * peaks[1]


@pytest.mark.parametrize("name", ["r3gan", "projection", "layernorm"])
def test_nothing_is_left_behind_without_the_garbage_collector(name: str) -> None:
    critic, x, args, _ = build_any(name)
    parameters = list(critic.parameters())

    def step() -> None:
        torch.autograd.grad(softplus(score_and_gradient, critic, x, args), parameters, allow_unused=True)

    def tensors() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    step()
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        for _ in range(10):
            step()
        assert tensors() <= before
    finally:
        gc.enable()


# ---------------------------------------------------------------- hooks, modes, threads


def _module_hook(critic: nn.Module) -> None:
    critic[2].register_full_backward_hook(lambda module, into, out: None)


def _output_hook(critic: nn.Module) -> None:
    critic[1].register_forward_hook(lambda module, inputs, output: (output.register_hook(lambda g: 2 * g), None)[1])


def _changed_output(critic: nn.Module) -> None:
    critic[1].register_forward_hook(lambda module, inputs, output: 2 * output)


def _parameter_hook(critic: nn.Module) -> None:
    critic[0].weight.register_hook(lambda g: 3 * g)


@pytest.mark.parametrize(
    ("install", "quick"),
    [(_module_hook, False), (_output_hook, False), (_changed_output, True), (_parameter_hook, True)],
)
def test_hooks_equal_autograd(install: Callable[[nn.Module], None], quick: bool) -> None:
    critic, x, _, _ = build_any("amp")
    runs = []
    for way in (score_and_gradient, autograd):
        twin = copy.deepcopy(critic)
        install(twin)
        softplus(way, twin, x, ()).backward()
        runs.append([p.grad for p in twin.parameters()])
        assert way is autograd or is_quick(way(twin, x)[0]) == quick
    assert_equal(*runs)


def test_a_loss_of_the_gradients_alone_calls_the_hooks_that_eager_calls() -> None:
    critic, x, _, _ = build_any("amp")
    calls: list[list[bool]] = []
    for way in (score_and_gradient, autograd):
        twin = copy.deepcopy(critic)
        seen: list[bool] = []
        twin[-1].register_full_backward_pre_hook(lambda module, out, seen=seen: seen.append(out[0] is None))
        sizes(way(twin, x)[1]).mean().backward()
        calls.append(seen)
    assert calls[0] == calls[1]


def test_hooks_of_parameters_see_one_whole_gradient() -> None:
    critic, x, _, _ = build_any("amp")
    seen: list[Tensor] = []
    for parameter in critic.parameters():
        parameter.register_hook(lambda g: seen.append(g.clone()))
    softplus(score_and_gradient, critic, x, ()).backward()
    assert len(seen) == len(list(critic.parameters()))


class Doubling(TorchFunctionMode):
    """Makes of each ReLU something else."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].square() if func is F.relu else func(*args, **(kwargs or {}))


def test_under_a_function_mode_of_somebody_elses_autograd_has_it_all() -> None:
    critic, x, _, _ = build_any("amp")
    with Doubling():
        scores, gradients = score_and_gradient(critic, x)
        assert not is_quick(scores)
        ours = torch.autograd.grad(F.softplus(scores).mean() + sizes(gradients).mean(), list(critic.parameters()))
        scores, gradients = autograd(critic, x)
        theirs = torch.autograd.grad(F.softplus(scores).mean() + sizes(gradients).mean(), list(critic.parameters()))
    assert_equal(list(ours), list(theirs))


def test_within_the_short_cut_and_a_default_device_it_is_quick() -> None:
    critic, x, _, _ = build_any("amp")
    with torch.device("cpu"), exact_shortcut():
        assert is_quick(score_and_gradient(critic, x)[0])


def test_under_saved_tensor_hooks_autograd_has_it_all() -> None:
    critic, x, _, _ = build_any("amp")
    with torch.autograd.graph.save_on_cpu():
        assert not is_quick(score_and_gradient(critic, x)[0])
        ours = value_and_gradients(softplus, score_and_gradient, critic, x, ())
    assert_equal(ours, value_and_gradients(softplus, autograd, critic, x, ()))


def test_a_tensor_subclass_is_left_to_autograd() -> None:
    class Tagged(Tensor):
        pass

    critic, x, _, _ = build_any("amp")
    scores, gradients = score_and_gradient(critic, x.as_subclass(Tagged))
    assert not is_quick(scores)
    assert_equal([gradients.as_subclass(Tensor)], [autograd(critic, x)[1]])


@pytest.mark.usefixtures("traced_gradients")
def test_a_compiled_step_equals_eager() -> None:
    critic, x, _, _ = build_any("amp")
    parameters = list(critic.parameters())

    def step(x: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(softplus(score_and_gradient, critic, x, ()), parameters)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(x)
    assert_equal(list(compiled), list(step(x)))


def test_threads_do_not_meet() -> None:
    critic, x, _, _ = build_any("dcgan_not_inplace")
    expected = value_and_gradients(softplus, autograd, critic, x, ())
    found: dict[int, list[Tensor]] = {}
    parameters = list(critic.parameters())

    def run(i: int) -> None:
        loss = softplus(score_and_gradient, critic, x, ())
        found[i] = [loss, *torch.autograd.grad(loss, parameters)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours in found.values():
        assert_equal(ours, expected)
    assert len(found) == 4


# ---------------------------------------------------------------- registered operations


class FusedBiasLeakyReLU(torch.autograd.Function):
    """As a kernel of somebody else's: opaque, differentiable twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor | None) -> Tensor:
        y = F.leaky_relu(x if b is None else x + b.view(1, -1, *[1] * (x.dim() - 2)), 0.2)
        ctx.save_for_backward(y)
        ctx.bias = b is not None
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        g = torch.where(y.detach() > 0, grad, 0.2 * grad)
        return g, g.sum([0, *range(2, g.dim())]) if ctx.bias else None


def fused(x: Tensor, b: Tensor | None = None) -> Tensor:
    y: Tensor = FusedBiasLeakyReLU.apply(x, b)
    return y


known = register_piecewise_linear(fused, bias="b")


def test_a_registered_operation_with_other_arguments_that_require_grad_is_left_to_autograd() -> None:
    scaled = register_piecewise_linear(lambda x, weights, **options: x * weights[0] + options["shift"])
    for which in (0, 1):

        def score(x: Tensor, w: Tensor, v: Tensor, which: int = which) -> Tensor:
            given = [v.detach(), v.detach()]
            given[which] = v
            return scaled(x @ w, [given[0]], shift=given[1]).relu().sum(1)

        critic, x = Lambda(score, (6, 4), (4,)), torch.randn(5, 6)
        assert not is_quick(score_and_gradient(critic, x)[0])
        ours, theirs = (value_and_gradients(softplus, way, critic, x, ()) for way in (score_and_gradient, autograd))
        assert_equal(ours, theirs)


@pytest.mark.parametrize(("function", "bias"), [(fused, "beta"), (torch.relu, None)])
def test_what_cannot_be_registered_is_named(function: Callable[..., Tensor], bias: str | None) -> None:
    with pytest.raises(ValueError, match=r"bias='beta': expected .*x, b|no signature"):
        register_piecewise_linear(function, bias=bias)


@pytest.mark.parametrize("biased", [True, False])
def test_a_registered_operation_keeps_one_pass(biased: bool) -> None:
    def critic_of(activation: Callable[..., Tensor]) -> nn.Module:
        torch.manual_seed(0)

        def score(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
            h = activation(F.conv2d(x, w), b if biased else None)
            return activation(h, b=b if biased else None).sum((2, 3)) @ v

        return Lambda(score, (4, 3, 3, 3), (4,), (4, 1)).double()

    x = torch.randn(3, 3, 5, 5).double()
    expected = value_and_gradients(softplus, autograd, critic_of(fused), x, ())
    for activation, quick in ((known, True), (fused, False)):
        critic = critic_of(activation)
        assert is_quick(score_and_gradient(critic, x)[0]) == quick
        assert_equal(value_and_gradients(softplus, score_and_gradient, critic, x, ()), expected)
    assert torch.equal(known(x), fused(x))


# ---------------------------------------------------------------- explain


def test_explain_names_the_layers_in_the_way_and_counts_each_way() -> None:
    critic, x, _, _ = build_any("instancenorm")
    found = explain(critic, x)
    assert not found.one_pass
    assert [(o.module, o.operation, o.shortcut) for o in found.obstacles] == [("3", "instance_norm", True)]
    assert "3: instance_norm: the second derivative is not zero; fused" in str(found)
    critic, x, _, _ = build_any("amp")
    found = explain(critic, x)
    assert found.one_pass
    assert found.obstacles == ()
    assert found.flops["score_and_gradient"] < 4 * found.forward_flops
    assert found.flops["score_and_gradient"] < min(list(found.flops.values())[1:])
    assert str(found).startswith("one pass for scores and gradients: yes")


def test_explain_leaves_out_what_does_not_enter_the_scores() -> None:
    critic = Lambda(lambda x, w: (x @ w if (x @ w).mean() < 9 else x).relu().sum(1), (6, 4))
    found = explain(critic, torch.zeros(5, 6))
    assert found.one_pass
    assert found.obstacles == ()


def test_explain_names_a_checkpointed_segment() -> None:
    critic = Lambda(lambda x, w: checkpoint(lambda z: F.linear(z, w), x, use_reentrant=False).sum(1), (4, 6))
    (obstacle,) = explain(critic, torch.ones(5, 6)).obstacles
    assert "in a checkpointed segment" in str(obstacle)


@pytest.mark.parametrize(
    ("function", "operation", "shortcut"),
    [
        (lambda x, w: torch.tanh(x @ w).sum(1), "tanh", True),
        (lambda x, w: (x - x.mean(0)).matmul(w).sum(1), "mean", False),
        (lambda x, w: x @ w, "scores", False),
    ],
)
def test_explain_tells_what_concerns_one_pass_alone(
    function: Callable[..., Tensor], operation: str, shortcut: bool
) -> None:
    found = explain(Lambda(function, (6, 4)).double(), torch.randn(5, 6).double())
    assert [(o.operation, o.shortcut) for o in found.obstacles] == [(operation, shortcut)]


@pytest.mark.parametrize(
    ("layer", "fused"),
    [
        (nn.SiLU(), True),
        (nn.GroupNorm(2, 6), True),
        (nn.BatchNorm1d(6), False),
        (nn.InstanceNorm1d(6, track_running_stats=True), False),
        (nn.Softmax(1), False),
    ],
)
def test_explain_says_what_is_fused(layer: nn.Module, fused: bool) -> None:
    critic = nn.Sequential(nn.Conv1d(6, 6, 1), layer, nn.Flatten(), nn.Linear(24, 1))
    (obstacle,) = explain(critic, torch.randn(5, 6, 4)).obstacles
    assert (obstacle.module, obstacle.fused) == ("1", fused)
    assert ("fused, one kernel" in str(obstacle)) == fused


def test_explain_says_that_a_critic_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    critic, x, _, _ = build_any("mlp_inplace")
    monkeypatch.setattr(least_work, "ONE_PASS", 1 << 40)
    found = explain(critic, x)
    assert not found.one_pass
    assert [(o.operation, o.shortcut) for o in found.obstacles] == [("forward", False)]
    assert found.flops["score_and_gradient"] == found.flops["autograd, scores and penalty from one forward pass"]
    _, _, ours, autograd = found.flops.values()
    assert ours < autograd
    monkeypatch.setattr(least_work, "SHORTCUT", 1 << 40)
    found = explain(critic, x)
    _, _, ours, autograd = found.flops.values()
    assert found.obstacles[0].shortcut
    assert ours == autograd


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_explain_names_a_backward_hook_once(register: str) -> None:
    critic, x, _, _ = build_any("amp")
    name, module = list(critic.named_modules())[-1]
    calls: list[int] = []
    getattr(module, register)(lambda *_: calls.append(1))
    found = explain(critic, x)
    assert [(o.module, o.operation, o.shortcut) for o in found.obstacles] == [(name, "backward hook", True)]
    assert not found.one_pass
    critic(x).sum().backward()
    assert calls, "the hook of the critic itself is still there"


def test_explain_changes_neither_critic_nor_random_state() -> None:
    critic, x, _, _ = build_any("batchnorm")
    before, state = copy.deepcopy(critic.state_dict()), torch.get_rng_state()
    explain(nn.Sequential(critic, nn.Dropout(0.5)), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), critic.state_dict().values(), strict=True))
    assert all(p.grad is None for p in critic.parameters())
    assert not any(module._forward_hooks for module in critic.modules())


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
def test_explain_takes_a_critic_whose_hooks_keep_what_they_computed(norm: Callable[[nn.Module], nn.Module]) -> None:
    critic, x = nn.Sequential(norm(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 1)).double(), torch.randn(5, 6).double()
    critic(x)
    kept = critic[0].weight
    flops = explain(critic, x).flops
    assert critic[0].weight is kept
    assert flops["gradient_penalty with a forward pass of its own"] > 0


def test_explain_refuses_a_compiled_critic() -> None:
    critic = nn.Linear(6, 1)
    critic.compile()
    with pytest.raises(RuntimeError, match="no double backward"):
        explain(critic, torch.randn(5, 6))
