"""The exact shortcut among everything else: hooks, views, transforms, autocast, threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from critics import build
from test_double_backward import assert_same, in_eagers_order, penalty, value_and_gradients
from torch import Tensor, nn
from torch.autograd import forward_ad

from wgan_fast.double_backward import exact_shortcut
from wgan_fast.double_backward.fused_kernels import SUBSTITUTES


def is_replaced(y: Tensor) -> bool:
    return y.grad_fn is not None and "PiecewiseLinear" in y.grad_fn.name()


def leaf(*shape: int) -> Tensor:
    return torch.randn(*(shape or (4, 3)), dtype=torch.float64, requires_grad=True)


def slope(x: Tensor) -> Tensor:
    """The derivative of leaky_relu(x, 0.2)."""
    return torch.ones_like(x).masked_fill(x <= 0, 0.2)


# ---------------------------------------------------------------- where it steps aside


def test_without_gradients_nothing_is_replaced() -> None:
    x = leaf()
    with exact_shortcut():
        assert not F.relu(x.detach()).requires_grad
        with torch.no_grad():
            assert not F.relu(x).requires_grad
        with torch.inference_mode():
            assert F.relu(x).is_inference()
        assert is_replaced(F.relu(x))


def test_transforms_and_forward_mode_are_left_to_autograd() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    with exact_shortcut():
        slopes = torch.func.vmap(torch.func.grad(lambda v: F.leaky_relu(v, 0.2).square().sum()))(x)
        _, tangent = torch.func.jvp(F.relu, (x,), (torch.ones_like(x),))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.clone().requires_grad_(), torch.ones_like(x))
            dual_tangent = forward_ad.unpack_dual(F.relu(dual)).tangent
    assert torch.equal(slopes, 2 * F.leaky_relu(x, 0.2) * slope(x))
    assert torch.equal(tangent, (x > 0).double())
    assert dual_tangent is not None
    assert torch.equal(dual_tangent.detach(), tangent)


def test_tensor_subclasses_are_left_to_autograd() -> None:
    class Tagged(Tensor):
        pass

    with exact_shortcut():
        y = F.relu(leaf().as_subclass(Tagged))
    assert type(y) is Tagged
    assert not is_replaced(y)


def test_saved_tensor_hooks_are_left_to_autograd() -> None:
    x = leaf()
    with exact_shortcut(), torch.autograd.graph.save_on_cpu():
        assert not is_replaced(F.relu(x))


def test_wrong_arguments_raise_eagers_errors() -> None:
    x = leaf()
    with exact_shortcut():
        with pytest.raises(TypeError, match=r"relu\(\)"):
            torch.relu(x, 3, 4)
        with pytest.raises(TypeError):
            F.leaky_relu(x, slope=3)
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            F.relu_(x)
        with pytest.raises(RuntimeError):
            F.max_pool2d(x, 7)
        assert is_replaced(F.relu(x))


# ---------------------------------------------------------------- in place


@pytest.mark.parametrize(
    "view", [lambda h: h.view(-1), lambda h: h[1:], lambda h: h.t(), lambda h: h.unsqueeze(0)], ids=range(4)
)
@pytest.mark.parametrize("activation", [torch.relu_, lambda h: F.leaky_relu(h, 0.1, inplace=True)], ids=range(2))
def test_in_place_on_a_view_equals_eager(
    view: Callable[[Tensor], Tensor], activation: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    x, weight, bias = leaf(4, 3), leaf(3, 3), leaf(3)

    def run(context: AbstractContextManager[Any]) -> list[Tensor | None]:
        with context:
            h = x @ weight + bias
            y = activation(view(h))
            scores = (h @ weight).sum(1) + (y * y).sum()
        (g,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        return [h, y, g, *torch.autograd.grad(g.square().sum(), [x, weight, bias])]

    assert_same(run(exact_shortcut()), run(nullcontext()))


def test_in_place_returns_its_argument() -> None:
    h = leaf() * 1
    with exact_shortcut():
        assert F.relu(h, inplace=True) is h
    assert is_replaced(h)
    assert bool((h >= 0).all())


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "max_pool2d", "avg_pool2d"])
def test_what_was_saved_and_then_changed_raises_as_in_eager(name: str) -> None:
    """relu saves its output, the others their input."""
    arguments = (2,) if "pool" in name else ()

    def change_then_differentiate(which: str, context: AbstractContextManager[Any]) -> bool:
        h = leaf(1, 1, 4, 4) * 1
        with context:
            y = getattr(F, name)(h, *arguments)
        with torch.no_grad():
            (h if which == "input" else y).mul_(2)
        try:
            torch.autograd.grad(y.sum(), h)
        except RuntimeError as error:
            return "modified by an inplace operation" in str(error)
        return False

    for which in ("input", "output"):
        raises = change_then_differentiate(which, nullcontext())
        assert change_then_differentiate(which, exact_shortcut()) == raises
        assert raises == (which == ("output" if name == "relu" else "input"))


def test_what_was_saved_and_changed_before_the_double_backward_raises() -> None:
    x, weight = leaf(), leaf(3, 3)
    with exact_shortcut():
        y = F.relu(x @ weight)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with torch.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(g.sum(), weight)


def test_a_freed_graph_raises_as_in_eager() -> None:
    x, weight = leaf(), leaf(3, 3)
    with exact_shortcut():
        y = F.relu(x @ weight).sum()
    torch.autograd.grad(y, x)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x)


# ---------------------------------------------------------------- hooks


def hook_calls(install: Callable[[nn.Module, list[Any]], None], context: AbstractContextManager[Any]) -> list[Any]:
    """What a hook sees in both passes, and the parameter gradients after them."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.LeakyReLU(0.1), nn.Linear(4, 1)).double()
    seen: list[Any] = []
    install(critic, seen)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    value = penalty(critic, x, context)
    gradients = torch.autograd.grad(value, list(critic.parameters()), allow_unused=True)
    return [*seen, *gradients]


def _tensor_hook(critic: nn.Module, seen: list[Any]) -> None:
    def forward_hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.register_hook(seen.append)

    critic[2].register_forward_hook(forward_hook)


def _retained(critic: nn.Module, seen: list[Any]) -> None:
    critic[1].register_forward_hook(lambda module, inputs, output: output.retain_grad())


def _scaling_hook(critic: nn.Module, seen: list[Any]) -> None:
    """A hook that computes with what it is given, and replaces it."""
    critic[0].register_forward_hook(lambda module, inputs, output: (output.register_hook(lambda g: 0.5 * g), None)[1])


def _full_backward_hook(critic: nn.Module, seen: list[Any]) -> None:
    critic[2].register_full_backward_hook(lambda module, into, out: seen.extend([*into, *out]))


def _parameter_hook(critic: nn.Module, seen: list[Any]) -> None:
    critic[0].bias.register_hook(seen.append)


def _changing_forward_hook(critic: nn.Module, seen: list[Any]) -> None:
    critic[1].register_forward_hook(lambda module, inputs, output: 2 * output)


@pytest.mark.parametrize(
    "install",
    [_tensor_hook, _retained, _scaling_hook, _full_backward_hook, _parameter_hook, _changing_forward_hook],
)
def test_hooks_see_what_they_see_in_eager(install: Callable[[nn.Module, list[Any]], None]) -> None:
    assert_same(hook_calls(install, exact_shortcut()), hook_calls(install, nullcontext()))


# ---------------------------------------------------------------- contexts and threads


def test_nested_contexts_equal_eager_and_unwind() -> None:
    critic, x, _ = build("mlp")

    def nested(points: Tensor) -> Tensor:
        with exact_shortcut():
            return critic(points)

    points = x.clone().requires_grad_()
    ours = penalty(nested, points, exact_shortcut())
    eager = penalty(critic, points, nullcontext())
    parameters = list(critic.parameters())
    gradients = [torch.autograd.grad(value, parameters, allow_unused=True) for value in (ours, eager)]
    assert_same([ours, *gradients[0]], [eager, *gradients[1]])
    assert not is_replaced(F.relu(leaf()))


def test_an_exception_leaves_the_context() -> None:
    with pytest.raises(ZeroDivisionError), exact_shortcut():
        raise ZeroDivisionError
    assert not is_replaced(F.relu(leaf()))


def test_one_context_may_be_entered_again_and_again() -> None:
    context = exact_shortcut()
    with context:
        h = leaf() * 1
        h.register_hook(lambda g: g)
        assert not is_replaced(F.relu(h))
    with context:
        assert is_replaced(F.relu(leaf()))
        with context:
            assert is_replaced(F.relu(leaf()))


def test_other_threads_are_not_affected_and_many_may_use_it() -> None:
    critic, x, _ = build("resnet")
    eager = value_and_gradients(critic, x, nullcontext())
    outcomes: dict[str, Any] = {}

    def own(name: str) -> None:
        outcomes[name] = value_and_gradients(critic, x, in_eagers_order())

    def bystander() -> None:
        outcomes["bystander"] = is_replaced(F.relu(leaf()))

    with exact_shortcut():
        threads = [threading.Thread(target=own, args=(str(i),)) for i in range(4)]
        threads.append(threading.Thread(target=bystander))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes.pop("bystander") is False
    for ours in outcomes.values():  # torch.manual_seed is shared by the threads, and this critic draws nothing
        assert_same(ours, eager)


# ---------------------------------------------------------------- cuDNN


class OnCuda(Tensor):
    """A CPU tensor that says it is on a CUDA device; cuDNN's switch exists without one."""

    is_cuda = True  # type: ignore[assignment]


@pytest.fixture
def own_precision() -> Iterator[None]:
    """Convolutions in full fp32, as ``training/precision.py`` sets them, while recurrent layers keep TF32."""
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    if not hasattr(convolutions, "fp32_precision"):
        pytest.skip("this torch has one TF32 flag for all of cuDNN")
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    yield
    convolutions.fp32_precision = before


@pytest.mark.usefixtures("own_precision")
@pytest.mark.filterwarnings("ignore:the critic's recurrent layers run without cuDNN")
def test_recurrent_layers_leave_cudnn_whatever_the_precision() -> None:
    without_cudnn, x = SUBSTITUTES[torch.gru], torch.zeros(1).as_subclass(OnCuda)
    enabled = []
    with without_cudnn(x):
        enabled.append(torch.backends.cudnn.enabled)
        with without_cudnn(x):
            enabled.append(torch.backends.cudnn.enabled)
        enabled.append(torch.backends.cudnn.enabled)
    assert enabled == [False, False, False]
    assert torch.backends.cudnn.enabled


@pytest.mark.filterwarnings("ignore:the critic's recurrent layers run without cuDNN")
def test_an_exception_gives_cudnn_back() -> None:
    with pytest.raises(ZeroDivisionError), SUBSTITUTES[torch.lstm](torch.zeros(1).as_subclass(OnCuda)):
        raise ZeroDivisionError
    assert torch.backends.cudnn.enabled


# ---------------------------------------------------------------- autocast

SPELLED = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "threshold": lambda x: F.threshold(x, 0.1, 0.2),
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "abs": torch.abs,
    "rrelu": F.rrelu,
    "prelu": lambda x: F.prelu(x, torch.tensor([0.1])),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "max_pool3d": lambda x: F.max_pool3d(x[None], 2),
    "avg_pool3d": lambda x: F.avg_pool3d(x[None], 2),
    "adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(x[None], 2),
    "adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(x[None], 2),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
}


@pytest.mark.parametrize("name", SPELLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_under_autocast_equal_eager(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, v = torch.randn(2, 3, 4, 4).to(dtype).requires_grad_(), None
    runs = []
    for context in (exact_shortcut(), nullcontext()):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16), context:
            y = SPELLED[name](x * 1)
        v = torch.randn_like(y, requires_grad=True)
        (g,) = torch.autograd.grad(y, x, v, create_graph=True)
        runs.append([y, g, *torch.autograd.grad(g.float().square().sum(), [v, x])])
    assert runs[0][0].dtype == runs[1][0].dtype
    assert_same(*runs)


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet", "sequence", "pooled", "volume", "layernorm"])
@pytest.mark.parametrize("direct", [False, True])
def test_critics_under_autocast_equal_eager(name: str, direct: bool) -> None:
    critic, x, args = build(name, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eager = value_and_gradients(critic, x, nullcontext(), *args)
        context = exact_shortcut(direct_convolution=direct, fused_second_order=direct)
        ours = value_and_gradients(critic, x, context, *args)
    assert_same(ours, eager, 0.02 if direct else 0.0)


# ---------------------------------------------------------------- torch.compile


def test_inside_a_compiled_region_it_steps_aside() -> None:
    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(x: Tensor) -> Tensor:
        with exact_shortcut():
            return F.leaky_relu(x, 0.2).square()

    x = leaf()
    (ours,) = torch.autograd.grad(compiled(x).sum(), x)
    assert torch.equal(ours, 2 * F.leaky_relu(x, 0.2) * slope(x))


def test_around_a_compiled_function_it_steps_aside() -> None:
    compiled = torch.compile(lambda x: F.leaky_relu(x, 0.2).square(), backend="aot_eager")
    x = leaf()
    with exact_shortcut():
        y = compiled(x)
    (ours,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(ours, 2 * F.leaky_relu(x, 0.2) * slope(x))
