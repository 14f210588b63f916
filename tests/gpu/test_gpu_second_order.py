"""The double backward of norms and smooth activations on every GPU backend; a round size first, then odd ones.

A kernel that was compiled for the first size must suit the others; for compute-sanitizer, see test_gpu_sequences.
"""

from __future__ import annotations

import pytest
import torch
from norm_samples import NORMS, Norm
from norm_samples import chain as norm_chain
from samples import DTYPES, assert_as_close_as
from test_activation_double_backward import CASES, arguments, exact_of_result, is_of_result, ours
from test_activation_double_backward import chain as activation_chain
from test_norm_double_backward import fused, inputs, magnitudes

from benchmarks.gpu_kernels import kernels
from wgan_fast.functional import activation_double_backward, norm_double_backward

SIZES = [4096, 4095, 8192, 513, 7, 1, 40_001]
BATCHES = [64, 62, 63, 1]


def assert_norm_is_close(norm: Norm, dtype: torch.dtype, backend: str, device: torch.device) -> None:
    x, weight, g, v = inputs(norm, dtype, weighted=True)
    actual = [t.cpu() for t in fused(norm, *(t.to(device) for t in (x, weight, g, v)), backend=backend)]
    exact = norm_chain(norm, *(t.double() for t in (x, weight, g, v)))
    yardstick = norm_chain(norm, x, weight, g, v)
    heights = magnitudes(x, weight, g, v, norm.statistics(x)[1])
    for mine, theirs, true, height in zip(actual, yardstick, exact, heights, strict=True):
        usable = bool(theirs.isfinite().all())  # the chain's sums overflow in fp16 for long rows
        assert_as_close_as(mine, theirs if usable else true.to(dtype), true, magnitude=height)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_norms(norm: Norm, dtype: torch.dtype, backend: str, device: torch.device) -> None:
    assert_norm_is_close(norm, dtype, backend, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 784, 512])
def test_layer_norm_of_round_batches_and_then_of_odd_ones(
    size: int, dtype: torch.dtype, backend: str, device: torch.device
) -> None:
    for batch in BATCHES:
        assert_norm_is_close(Norm("layer", (batch, size)), dtype, backend, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_group_norm_of_round_batches_and_then_of_odd_ones(
    dtype: torch.dtype, backend: str, device: torch.device
) -> None:
    for batch in BATCHES:
        assert_norm_is_close(Norm("group", (batch, 32, 4, 4), 8), dtype, backend, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_activations(name: str, dtype: torch.dtype, backend: str, device: torch.device) -> None:
    case = CASES[name]
    for size in SIZES:
        x, g, v = arguments(size, dtype)
        saved, *yardsticks = activation_chain(case, x, g, v)
        if is_of_result(case):
            exact = [t.double() for t in exact_of_result(case, saved, g, v)]
            yardsticks[1] = exact[1].to(dtype)  # autograd's is that of x
        else:
            exact = list(activation_chain(case, x.double(), g.double(), v.double())[1:])
        cancelled = 30.0 if dtype == torch.float64 else 0.0  # what the chain of fp64 is itself wrong by
        actual = ours(case, *(t.to(device) for t in (saved, g, v)), backend)
        for result, yardstick, true in zip(actual, yardsticks, exact, strict=True):
            usable = yardstick.isfinite()  # fp16 overflows in the chain of mish
            assert_as_close_as(result.cpu()[usable], yardstick[usable], true[usable], cancelled)


def test_an_activation_is_one_launch_and_a_norm_at_most_three(backend: str, cuda: torch.device) -> None:
    x, g, v = torch.randn(3, 4096, 512, device=cuda)
    weight = torch.randn(512, device=cuda)
    mean, rstd = x.mean(1), (x.var(1, unbiased=False) + 1e-5).rsqrt()
    assert len(kernels(lambda: activation_double_backward(x, g, v, "silu", backend=backend))) == 1
    assert len(kernels(lambda: norm_double_backward(x, mean, rstd, None, g, v, backend=backend))) <= 2
    assert len(kernels(lambda: norm_double_backward(x, mean, rstd, weight, g, v, backend=backend))) <= 3
