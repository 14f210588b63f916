"""What only a GPU can show: the number of launches, CUDA graphs, streams, a second device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import wgan_fast
from benchmarks.gpu_kernels import kernels

DCGAN = [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4), (128,), (256,), (512,)]


def weights(device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(shape, device=device).mul_(0.02).to(dtype) for shape in DCGAN]


def replayed(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """The call as a graph, after three calls on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


# ---------------------------------------------------------------------------------------------------- launches


def test_clip_is_one_launch_a_dtype(backend: str, cuda: torch.device) -> None:
    tensors = weights(cuda)
    assert len(kernels(lambda: wgan_fast.clip_weights_(tensors, 0.01, backend=backend))) == 1
    mixed = [*tensors, *weights(cuda, torch.bfloat16)]
    assert len(kernels(lambda: wgan_fast.clip_weights_(mixed, 0.01, backend=backend))) == 2


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_a_step_with_clip_is_one_launch(name: str, backend: str, cuda: torch.device) -> None:
    params = [weight.requires_grad_() for weight in weights(cuda)]
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = getattr(wgan_fast.optim, name)(params, lr=1e-4, clip_value=0.01, backend=backend)
    assert len(kernels(optimizer.step)) == 1


def test_interpolate_is_one_launch_and_the_penalty_at_most_two(backend: str, cuda: torch.device) -> None:
    real, fake = torch.randn(2, 64, 3, 64, 64, device=cuda)
    alpha = torch.rand(64, device=cuda)
    assert len(kernels(lambda: wgan_fast.interpolate(real, fake, alpha, backend=backend))) == 1
    leaf = real.requires_grad_()
    assert len(kernels(lambda: wgan_fast.gradient_norm_penalty(leaf, backend=backend))) <= 2


# ------------------------------------------------------------------------------------------------------ graphs


def test_clip_in_a_graph_sees_new_weights(backend: str, cuda: torch.device) -> None:
    tensors = weights(cuda)
    graph = replayed(lambda: wgan_fast.clip_weights_(tensors, 0.01, backend=backend))
    for seed in (1, 2):
        torch.manual_seed(seed)
        fresh = weights(cuda)
        torch._foreach_copy_(tensors, fresh)
        graph.replay()
        for actual, value in zip(tensors, fresh, strict=True):
            assert torch.equal(actual, value.clamp(-0.01, 0.01))


def test_interpolate_and_penalty_in_a_graph_see_new_input(backend: str, cuda: torch.device) -> None:
    real, fake = torch.randn(2, 32, 3, 32, 32, device=cuda)
    alpha = torch.rand(32, device=cuda)
    out = torch.empty_like(real)
    results: dict[str, Tensor] = {}

    def call() -> None:
        wgan_fast.interpolate(real, fake, alpha, out=out, backend=backend)
        leaf = out.detach().requires_grad_()
        results["value"] = wgan_fast.gradient_norm_penalty(leaf, backend=backend)
        (results["slope"],) = torch.autograd.grad(results["value"], leaf)

    graph = replayed(call)
    captured = dict(results)
    for _ in range(2):
        real.normal_()
        alpha.uniform_()
        graph.replay()
        replay = {name: tensor.detach().clone() for name, tensor in captured.items()}
        call()
        for name, tensor in replay.items():
            assert torch.equal(tensor, results[name]), name


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_a_step_in_a_graph_follows_gradients_learning_rate_and_count(
    name: str, backend: str, cuda: torch.device
) -> None:
    params = [weight.requires_grad_() for weight in weights(cuda)]
    twins = [param.detach().clone().requires_grad_() for param in params]
    for param in (*params, *twins):
        param.grad = torch.zeros_like(param)
    rates = [torch.tensor(1e-3, device=cuda) for _ in range(2)]
    build = getattr(wgan_fast.optim, name)
    optimizer = build(params, lr=rates[0], clip_value=0.02, capturable=True, backend=backend)
    twin = build(twins, lr=rates[1], clip_value=0.02, capturable=True, backend=backend)
    graph = replayed(optimizer.step)
    for _ in range(3):  # the warm-up's; a captured call is not executed
        twin.step()
    for round_ in range(3):
        for param, other in zip(params, twins, strict=True):
            assert param.grad is not None
            assert other.grad is not None
            param.grad.normal_()
            other.grad.copy_(param.grad)
        for rate in rates:
            rate.fill_(1e-3 * (round_ + 1))
        graph.replay()
        twin.step()
        for param, other in zip(params, twins, strict=True):
            assert torch.equal(param, other)
    assert optimizer.state[params[0]]["step"] == twin.state[twins[0]]["step"] == 6


def test_a_capture_of_tensors_not_seen_before(backend: str, cuda: torch.device) -> None:
    """Tables travel by value, or are copied by the graph; the kernel itself has to be compiled before."""
    wgan_fast.clip_weights_([torch.zeros(100, device=cuda)], 0.5, backend=backend)
    tensors = weights(cuda)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        wgan_fast.clip_weights_(tensors, 0.5, backend=backend)
    for tensor in tensors:
        tensor.fill_(3.0)
    for value in (3.0, -2.0):
        torch._foreach_mul_(tensors, 0)
        torch._foreach_add_(tensors, value)
        # Memory that the capture has let go is used by others between replays.
        del_me = [torch.randn(1 << 20, device=cuda) for _ in range(4)]
        graph.replay()
        torch.cuda.synchronize()
        del del_me
        assert all(bool((tensor == (0.5 if value > 0 else -0.5)).all()) for tensor in tensors)


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_a_capture_whose_gradients_come_from_the_graphs_own_memory(name: str, backend: str, cuda: torch.device) -> None:
    """As torch.compile(mode="reduce-overhead") captures: the gradients have addresses that no warm-up has seen."""
    runs = []
    for captured in (False, True):
        torch.manual_seed(0)
        params = [weight.requires_grad_() for weight in weights(cuda)]
        optimizer = getattr(wgan_fast.optim, name)(params, lr=1e-3, capturable=True, clip_value=0.05, backend=backend)

        def call(params: list[Tensor] = params, optimizer: Any = optimizer) -> None:
            loss = sum(((param - 1) ** 2).sum() for param in params)
            for param, grad in zip(params, torch.autograd.grad(loss, params), strict=True):
                param.grad = grad
            optimizer.step()

        for _ in range(2):
            call()
        if captured:
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                call()
        for _ in range(3):
            graph.replay() if captured else call()
        runs.append([param.detach().clone() for param in params])
    for eager, replayed_ in zip(*runs, strict=True):
        assert torch.equal(eager, replayed_)


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_a_capture_with_counts_on_the_host_is_refused(name: str, backend: str, cuda: torch.device) -> None:
    param = torch.zeros(100, device=cuda, requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = getattr(wgan_fast.optim, name)([param], lr=1e-3, backend=backend)
    optimizer.step()
    with pytest.raises(RuntimeError, match="capturable=True"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


# ------------------------------------------------------------------------------------------ streams and devices


def test_two_streams_do_not_disturb_each_other(backend: str, cuda: torch.device) -> None:
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    groups = [weights(cuda), weights(cuda)]
    expected = [[tensor.clamp(-0.01, 0.01) for tensor in group] for group in groups]
    torch.cuda.synchronize()
    for _ in range(20):
        for stream, group in zip(streams, groups, strict=True):
            with torch.cuda.stream(stream):
                wgan_fast.clip_weights_(group, 0.01, backend=backend)
                moved = [tensor.clone() for tensor in group]  # new addresses, so new tables
                wgan_fast.clip_weights_(moved, 0.01, backend=backend)
    torch.cuda.synchronize()
    for group, wanted in zip(groups, expected, strict=True):
        for actual, value in zip(group, wanted, strict=True):
            assert torch.equal(actual, value)


def test_the_current_stream_is_the_one_that_works(backend: str, cuda: torch.device) -> None:
    """The clip waits for what was queued before it on its stream, and for nothing else."""
    side = torch.cuda.Stream()
    tensor = torch.zeros(1_000_000, device=cuda)
    wgan_fast.clip_weights_([tensor], 0.5, backend=backend)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        tensor.fill_(3.0)
        wgan_fast.clip_weights_([tensor], 0.5, backend=backend)
    torch.cuda.synchronize()
    assert (tensor == 0.5).all()


def test_a_second_device(backend: str, cuda: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    here, there = torch.full((5000,), 3.0, device="cuda:0"), torch.full((5000,), 3.0, device="cuda:1")
    wgan_fast.clip_weights_([here, there], 0.5, backend=backend)
    assert (here == 0.5).all()
    assert (there == 0.5).all()
    penalty = wgan_fast.gradient_norm_penalty(there.view(50, 100), backend=backend)
    assert penalty.device == there.device
    assert torch.allclose(penalty, (there.view(50, 100).norm(dim=1) - 1).square().mean())
