"""RMSprop and Adam with clip against torch.optim followed by the clamp loop, step after step."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import DTYPES, assert_as_close_as
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

import wgan_fast
from wgan_fast import functional

SHAPES = [(3, 4), (70_001,), (1,), (0, 3), (), (17, 3, 4, 4), (129,)]

RMSPROP = [
    {},
    {"momentum": 0.9},
    {"centered": True},
    {"centered": True, "momentum": 0.5, "weight_decay": 0.01},
    {"alpha": 0.9, "eps": 1e-3, "maximize": True},
]
ADAM = [
    {},
    {"betas": (0.0, 0.9)},
    {"betas": (0.5, 0.9), "weight_decay": 0.01},
    {"amsgrad": True, "eps": 1e-4},
    {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
]
CASES = [("RMSprop", options) for options in RMSPROP] + [("Adam", options) for options in ADAM]


def weights(dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).mul(0.02).to(dtype).requires_grad_() for shape in SHAPES]


def set_gradients(params: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def textbook_step(optimizer: torch.optim.Optimizer, params: list[Tensor], clip_value: float | None) -> None:
    optimizer.step()
    if clip_value is not None:
        for param in params:
            param.data.clamp_(-clip_value, clip_value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_as_close_to_fp64_as_torch_optim(dtype: torch.dtype, name: str, options: dict[str, Any], backend: str) -> None:
    if dtype == torch.float16 and options.get("eps", 1e-8) < 1e-6:
        options = {**options, "eps": 1e-4}  # 1e-8 is 0 in fp16, for torch.optim as well
    params = weights(dtype)
    mine = getattr(wgan_fast.optim, name)(params, lr=1e-2, clip_value=0.03, backend=backend, **options)
    for step in range(3):
        set_gradients(params, step)
        mine.step()
    # fp64 follows the same rounded start and the same gradients, rounded like those of the dtype.
    exact_params = [param.detach().double().requires_grad_() for param in weights(dtype)]
    exact = getattr(torch.optim, name)(exact_params, lr=1e-2, **options)
    their_params = weights(dtype)
    theirs = getattr(torch.optim, name)(their_params, lr=1e-2, **options)
    for step in range(3):
        set_gradients(their_params, step)
        for exact_param, their_param in zip(exact_params, their_params, strict=True):
            exact_param.grad = their_param.grad.double()
        textbook_step(theirs, their_params, 0.03)
        textbook_step(exact, exact_params, 0.03)
    for param, their_param, exact_param in zip(params, their_params, exact_params, strict=True):
        if param.numel():
            assert_as_close_as(param.detach(), their_param.detach(), exact_param.detach(), magnitude=0.1)


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_fp32_without_fancy_options_is_torch_to_a_rounding(name: str, backend: str) -> None:
    params, their_params = weights(torch.float32), weights(torch.float32)
    mine = getattr(wgan_fast.optim, name)(params, lr=1e-3, backend=backend)
    theirs = getattr(torch.optim, name)(their_params, lr=1e-3)
    for step in range(5):
        set_gradients(params, step)
        set_gradients(their_params, step)
        mine.step()
        theirs.step()
    for param, their_param in zip(params, their_params, strict=True):
        assert torch.allclose(param, their_param, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_clamp_is_the_loops(name: str, dtype: torch.dtype, backend: str) -> None:
    """Clipped and unclipped runs of one step differ by exactly the clamp."""
    clipped, free = weights(dtype), weights(dtype)
    for params, clip_value in ((clipped, 0.01), (free, None)):
        optimizer = getattr(wgan_fast.optim, name)(params, lr=1e-2, eps=1e-4, clip_value=clip_value, backend=backend)
        set_gradients(params, 0)
        optimizer.step()
    for param, loose in zip(clipped, free, strict=True):
        assert torch.equal(param, loose.detach().clamp(-0.01, 0.01))


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_state_dict_moves_both_ways(name: str) -> None:
    """3 + 3 steps with a change of optimizer in between equal 6 steps of torch's, in both directions."""
    expected = weights(torch.float32)
    run = getattr(torch.optim, name)(expected, lr=1e-3)
    for step in range(6):
        set_gradients(expected, step)
        run.step()
    for first, second in ((torch.optim, wgan_fast.optim), (wgan_fast.optim, torch.optim)):
        params = weights(torch.float32)
        before = getattr(first, name)(params, lr=1e-3)
        for step in range(3):
            set_gradients(params, step)
            before.step()
        after = getattr(second, name)(params, lr=0.5)
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        assert after.param_groups[0]["lr"] == 1e-3
        for step in range(3, 6):
            set_gradients(params, step)
            after.step()
        assert all(state["step"] == 6 for state in after.state.values())
        for param, wanted in zip(params, expected, strict=True):
            assert torch.allclose(param, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_goes_on_as_the_original(name: str, copied: Callable[[Any], Any]) -> None:
    params = weights(torch.float32)
    optimizer = getattr(wgan_fast.optim, name)(params, lr=1e-2, clip_value=0.03, backend="reference")
    set_gradients(params, 0)
    optimizer.step()
    other = copied(optimizer)
    assert other.backend == "reference"
    for each in (optimizer, other):
        set_gradients(each.param_groups[0]["params"], 1)
        each.step()
    for param, theirs in zip(params, other.param_groups[0]["params"], strict=True):
        assert torch.equal(param, theirs)


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_the_state_of_another_model_is_refused_before_anything_changes(name: str, backend: str) -> None:
    def stepped(*widths: int) -> tuple[list[Tensor], torch.optim.Optimizer]:
        params = [torch.ones(width, requires_grad=True) for width in widths]
        optimizer = getattr(wgan_fast.optim, name)(params, backend=backend)
        for param in params:
            param.grad = torch.ones_like(param)
        return params, optimizer

    _, smaller = stepped(3, 3)
    smaller.step()
    params, optimizer = stepped(3, 1000)
    optimizer.load_state_dict(smaller.state_dict())
    with pytest.raises(ValueError, match=r"state of params\[1\]: expected .*\(1000,\), got \(3,\)"):
        optimizer.step()
    assert all(torch.equal(param, torch.ones_like(param)) for param in params)


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_a_checkpoint_of_torchs_leaves_clip_value_alone(name: str) -> None:
    params = weights(torch.float32)
    theirs = getattr(torch.optim, name)(params)
    mine = getattr(wgan_fast.optim, name)(params, clip_value=0.02)
    mine.load_state_dict(theirs.state_dict())
    assert mine.param_groups[0]["clip_value"] == 0.02
    other = getattr(wgan_fast.optim, name)(params, clip_value=0.5)
    other.load_state_dict(mine.state_dict())
    assert other.param_groups[0]["clip_value"] == 0.02


def test_groups_have_their_own_options(backend: str) -> None:
    a, b, c = (torch.full((100,), 0.5, requires_grad=True) for _ in range(3))
    groups = [{"params": [a], "clip_value": 0.1}, {"params": [b], "lr": 0.0}]
    optimizer = wgan_fast.optim.RMSprop(groups, lr=1e-3, clip_value=0.3, backend=backend)
    optimizer.add_param_group({"params": [c], "clip_value": None})
    for param in (a, b, c):
        param.grad = torch.ones(100)
    optimizer.step()
    assert (a == 0.1).all()
    assert (b == torch.tensor(0.3)).all()
    assert (c > 0.48).all()
    assert (c < 0.5).all()


def test_parameters_without_gradient_are_left_alone(backend: str) -> None:
    used, unused = torch.ones(5, requires_grad=True), torch.ones(5, requires_grad=True)
    optimizer = wgan_fast.optim.Adam([used, unused], clip_value=0.5, backend=backend)
    used.grad = torch.ones(5)
    optimizer.step()
    assert (used == 0.5).all()
    assert (unused == 1).all()
    assert unused not in optimizer.state


def test_channels_last_parameters_and_strided_views(backend: str) -> None:
    for make in (
        lambda: torch.randn(8, 3, 5, 5).to(memory_format=torch.channels_last),
        lambda: torch.randn(40, 30)[:, ::2],
        lambda: torch.randn(40, 30).t(),
    ):
        torch.manual_seed(1)
        param = make().requires_grad_()
        plain = param.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        optimizer = wgan_fast.optim.RMSprop([param], lr=0.1, clip_value=0.5, backend=backend)
        other = torch.optim.RMSprop([plain], lr=0.1)
        for _ in range(2):
            gradient = torch.randn(plain.shape)
            param.grad, plain.grad = gradient.clone(), gradient
            optimizer.step()
            textbook_step(other, [plain], 0.5)
        assert torch.allclose(param, plain, rtol=1e-6)


def test_mixed_dtypes_in_one_group(backend: str) -> None:
    params = [torch.full((50_000,), 0.5, dtype=dtype, requires_grad=True) for dtype in DTYPES]
    optimizer = wgan_fast.optim.RMSprop(params, lr=1e-2, clip_value=0.25, eps=1e-4, backend=backend)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    for param in params:
        assert (param == 0.25).all()


def test_a_tensor_as_learning_rate_and_a_scheduler(backend: str) -> None:
    rate = torch.tensor(0.1)
    param, plain = torch.zeros(5, requires_grad=True), torch.zeros(5, requires_grad=True)
    tensor_lr = wgan_fast.optim.RMSprop([param], lr=rate, backend=backend)
    float_lr = wgan_fast.optim.RMSprop([plain], lr=0.1, backend=backend)
    scheduler = torch.optim.lr_scheduler.StepLR(float_lr, step_size=1, gamma=0.5)
    for _ in range(3):
        param.grad, plain.grad = torch.ones(5), torch.ones(5)
        tensor_lr.step()
        float_lr.step()
        scheduler.step()
        rate.mul_(0.5)
    assert torch.allclose(param, plain)
    assert (param != 0).all()


def test_closure_and_hooks_run_once() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = wgan_fast.optim.Adam([param], lr=0.1, clip_value=0.5)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure) == 3.0
    assert calls == ["pre", "post"]
    assert (param == 0.5).all()


def test_global_hooks_and_the_profiler_see_the_step() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = wgan_fast.optim.RMSprop([param])
    param.grad = torch.ones(3)
    calls = []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append("post"))
    optimizer.step()
    handle.remove()
    assert calls == ["post"]
    with torch.profiler.profile() as profile:
        optimizer.step()
    events = profile.events()
    assert events is not None
    assert sum("Optimizer.step#RMSprop.step" in event.name for event in events) == 1
    assert optimizer.state[param]["step"] == 2


def test_gradscaler_drives_it() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = wgan_fast.optim.RMSprop([param], lr=0.1, clip_value=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((param**2).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.allclose(param, torch.zeros(3), atol=0.91)
    before = param.detach().clone()
    param.grad = torch.full((3,), torch.inf)
    scaler.scale(param.sum()).backward()
    scaler.step(optimizer)
    assert torch.equal(param, before), "a step with infinite gradients is skipped"


def test_version_counters_are_bumped(backend: str) -> None:
    param = torch.ones(50, requires_grad=True)
    loss = (param * param).sum()
    param.grad = torch.ones(50)
    optimizer = wgan_fast.optim.RMSprop([param], backend=backend)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nan_stays_visible(backend: str) -> None:
    for name in ("RMSprop", "Adam"):
        param = torch.zeros(70, requires_grad=True)
        param.grad = torch.ones(70)
        param.grad[3] = torch.nan
        getattr(wgan_fast.optim, name)([param], clip_value=0.01, backend=backend).step()
        assert param.isnan().sum() == 1
        assert param[3].isnan()


def test_amsgrad_keeps_nan_as_torch_maximum_does(backend: str) -> None:
    largest = torch.tensor([torch.nan, 1.0, 0.0])
    lists = [
        [torch.zeros(3)],
        [torch.tensor([1.0, torch.nan, 1.0])],
        [torch.zeros(3)],
        [torch.zeros(3)],
        [largest],
    ]
    functional.adam_step_(*lists, [torch.zeros(())], lr=0.1, backend=backend)
    assert torch.equal(largest.isnan(), torch.tensor([True, True, False]))


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_constructor_refuses(name: str) -> None:
    make = getattr(wgan_fast.optim, name)
    param = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"clip_value=-0.1"):
        make([param], clip_value=-0.1)
    with pytest.raises(ValueError, match=r"clip_value=-0.1"):
        make([{"params": [param], "clip_value": -0.1}], clip_value=0.1)
    with pytest.raises(ValueError, match="differentiable=True"):
        make([param], differentiable=True)
    with pytest.raises(ValueError, match="learning rate"):
        make([param], lr=-1.0)
    optimizer = make([param], backend="quantum")
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match="not a backend"):
        optimizer.step()


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_a_group_with_an_invalid_clip_value_is_not_added(name: str) -> None:
    optimizer = getattr(wgan_fast.optim, name)([torch.ones(3, requires_grad=True)], clip_value=0.1)
    with pytest.raises(ValueError, match=r"clip_value=-0.1"):
        optimizer.add_param_group({"params": [torch.ones(3, requires_grad=True)], "clip_value": -0.1})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused_before_anything_changes() -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    before = embedding.weight.detach().clone()
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        wgan_fast.optim.RMSprop(embedding.parameters()).step()
    assert torch.equal(embedding.weight, before)


def test_functions_refuse_lists_that_do_not_fit() -> None:
    ones = [torch.ones(3)]
    step = [torch.zeros(())]
    with pytest.raises(ValueError, match=r"lists of 1 tensors"):
        functional.rmsprop_step_(ones, [], ones, [], [], step, lr=0.1)
    with pytest.raises(ValueError, match=r"grads\[0\]: expected \(3,\)"):
        functional.rmsprop_step_(ones, [torch.ones(4)], [torch.zeros(3)], [], [], step, lr=0.1)
    with pytest.raises(ValueError, match=r"state of params\[0\]: expected .*\(3,\), got \(4,\)"):
        functional.rmsprop_step_(ones, ones, [torch.zeros(4)], [], [], step, lr=0.1)
    integers = [torch.ones(3, dtype=torch.int64)]
    with pytest.raises(TypeError, match=r"params\[0\]: .*int64"):
        functional.adam_step_(integers, integers, integers, integers, [], step, lr=0.1)
    assert math.isclose(step[0].item(), 0.0)
