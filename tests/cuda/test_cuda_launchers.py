"""What is particular to the CUDA launchers: tables that are too short, numbers on the device, launches, faults."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from samples import assert_as_close_as, assert_same_bits
from torch import Tensor

import wgan_fast
from wgan_fast import backends, functional, reference
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

NOT_LAUNCHED, NO_DEVICE = 9, 100  # cudaErrorInvalidConfiguration, cudaErrorNoDevice
RESIDENT = 7 * 5  # blocks that the device of host/host_cuda.cpp runs at once


class Runtime:
    """The stand-in for the CUDA runtime: counts launches, fails when told to."""

    def __init__(self, extension: ModuleType) -> None:
        self._library = ctypes.CDLL(str(extension.__file__))

    def launches(self) -> int:
        return int(self._library.host_cuda_launches())

    def latest_blocks(self) -> int:
        return int(self._library.host_cuda_latest_blocks())

    def fail(self, of_launch: int = 0, of_device: int = 0) -> None:
        self._library.host_cuda_fail(of_launch, of_device)

    def become(self, capability: int = 9, driver: int = 13020) -> None:
        self._library.host_cuda_become(capability, driver)


@pytest.fixture
def runtime(cuda_on_host: ModuleType, host_extension: ModuleType) -> Runtime:
    return Runtime(host_extension)


def lists_of(count: int, moments: int, dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    """Parameters, gradients and ``moments`` lists of non-negative moments."""
    sizes = [1 + 37 * (i % 11) for i in range(count)]
    lists = [[torch.randn(size, dtype=dtype) * 0.1 for size in sizes] for _ in range(2)]
    return lists + [[torch.rand(size, dtype=dtype) for size in sizes] for _ in range(moments)]


def copied(lists: list[list[Tensor]]) -> list[list[Tensor]]:
    return [[tensor.clone() for tensor in tensors] for tensors in lists]


def test_the_kernels_run(runtime: Runtime, backend: str) -> None:
    before = runtime.launches()
    wgan_fast.clip_weights_(torch.ones(3), 0.5, backend=backend)
    assert runtime.launches() == before + 1


@pytest.mark.parametrize(("count", "launches"), [(0, 0), (1, 1), (110, 1), (700, 4)])
def test_a_list_of_any_length_is_clipped_in_few_launches(
    count: int, launches: int, runtime: Runtime, backend: str
) -> None:
    tensors = [torch.randn(1 + i % 300) for i in range(count)]
    expected = [tensor.clamp(-0.5, 0.5) for tensor in tensors]
    before = runtime.launches()
    wgan_fast.clip_weights_(tensors, 0.5, backend=backend)
    assert runtime.launches() - before == launches
    for actual, wanted in zip(tensors, expected, strict=True):
        assert_same_bits(actual, wanted)


# Round sizes, tails of every kind, and one large tensor among small ones.
@pytest.mark.parametrize("sizes", [[1 << 20], [300_001], [70_000, 3, 90_001, 128, 41_000], [5] * 12 + [200_003]])
@pytest.mark.parametrize("op", ["clip_weights_", "rmsprop_step_", "adam_step_"])
def test_all_blocks_of_a_launch_run_at_once_and_fill_half_of_the_device(
    op: str, sizes: list[int], runtime: Runtime, backend: str
) -> None:
    params, grads, first, second = ([torch.rand(size) for size in sizes] for _ in range(4))
    expected = copied([params, grads, first, second])
    steps = [torch.tensor(1.0) for _ in sizes]
    for tensors, which in (([params, grads, first, second], backend), (expected, "reference")):
        if op == "clip_weights_":
            wgan_fast.clip_weights_(tensors[0], 0.5, backend=which)
        else:
            moments = [*tensors[2:], []] if op == "adam_step_" else [tensors[2], [], []]
            counts = [step.clone() for step in steps]
            getattr(functional, op)(*tensors[:2], *moments, counts, lr=1e-2, clip_value=0.5, backend=which)
    assert RESIDENT / 2 <= runtime.latest_blocks() <= RESIDENT
    roundings = 2 * torch.finfo(torch.float32).eps  # of values below 1
    for actual, exact in zip(params, expected[0], strict=True):
        torch.testing.assert_close(actual, exact, rtol=0, atol=roundings)


def test_more_tensors_than_the_device_runs_blocks_have_a_block_each(runtime: Runtime, backend: str) -> None:
    wgan_fast.clip_weights_([torch.ones(100) for _ in range(3 * RESIDENT)], 0.5, backend=backend)
    assert runtime.latest_blocks() == 3 * RESIDENT


@pytest.mark.parametrize("op", ["rmsprop_step_", "adam_step_"])
def test_a_step_is_one_launch_for_fifty_tensors_and_right_for_three_hundred(
    op: str, runtime: Runtime, backend: str
) -> None:
    for count, launches in ((50, 1), (300, 3 if op == "rmsprop_step_" else 6)):
        params, grads, first, second = lists_of(count, 2)
        lists = [params, grads, first, [], []] if op == "rmsprop_step_" else [params, grads, first, second, []]
        steps = [torch.tensor(float(i)) for i in range(count)]
        expected, expected_steps = copied(lists), [step.clone() for step in steps]
        before = runtime.launches()
        getattr(functional, op)(*lists, steps, lr=1e-2, clip_value=0.05, backend=backend)
        assert runtime.launches() - before == launches
        getattr(functional, op)(*expected, expected_steps, lr=1e-2, clip_value=0.05, backend="reference")
        assert torch.equal(torch.stack(steps), torch.stack(expected_steps))
        for tensors, wanted in zip(lists, expected, strict=True):
            for actual, exact in zip(tensors, wanted, strict=True):
                torch.testing.assert_close(actual, exact, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("lr_dtype", [torch.float32, torch.float64, None])
@pytest.mark.parametrize("on_device", [False, True])
def test_learning_rate_and_step_counts_on_the_device(
    on_device: bool, lr_dtype: torch.dtype | None, cuda_on_host: ModuleType, host_extension: ModuleType
) -> None:
    """On the host every tensor says that it is on the CPU: what the launcher passes for others is passed by hand."""
    params, *_ = lists = lists_of(7, 2)
    steps = [torch.tensor(4.0) for _ in params]
    lr = torch.tensor(0.03, dtype=lr_dtype) if lr_dtype else None
    expected, expected_steps = copied(lists), [torch.tensor(4.0) for _ in params]
    options = AdamOptions(0.03, 0.5, 0.9, 1e-8, 0.1, True, False, -0.05, 0.05)
    columns = [[p.numel() for p in params], *([t.data_ptr() for t in tensors] for tensors in (steps, *lists))]
    host_extension.adam_step(
        0,
        0,
        columns,
        0,
        on_device,
        False,
        lr.data_ptr() if lr is not None else 0,
        lr_dtype == torch.float64,
        options if lr is None else options._replace(lr=0.0),
    )
    reference.adam_step_([*expected, [], expected_steps], options)
    assert [float(step) for step in steps] == [4.0 if on_device else 5.0] * 7  # those the launcher advances itself
    for tensors, wanted in zip(lists, expected, strict=True):
        for actual, exact in zip(tensors, wanted, strict=True):
            torch.testing.assert_close(actual, exact, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rmsprop_reads_a_learning_rate_on_the_device(dtype: torch.dtype, host_extension: ModuleType) -> None:
    params, *_ = lists = lists_of(5, 1, dtype)
    steps, lr = [torch.tensor(0.0) for _ in params], torch.tensor(0.03, dtype=torch.float64)
    expected, expected_steps = copied(lists), [step.clone() for step in steps]
    columns = [[p.numel() for p in params], *([t.data_ptr() for t in tensors] for tensors in (steps, *lists))]
    code = {torch.float32: 0, torch.float64: 1}[dtype]
    options = RMSpropOptions(0.03, 0.99, 1e-8, 0.0, 0.0, False, -0.05, 0.05)
    arguments = (lr.data_ptr(), True, options._replace(lr=0.0))
    host_extension.rmsprop_step(0, 0, columns, code, False, False, False, *arguments)
    reference.rmsprop_step_([*expected, [], [], expected_steps], options)
    for actual, exact in zip(params, expected[0], strict=True):
        assert_as_close_as(actual, exact, exact.double())


@pytest.mark.parametrize(
    ("shape", "launches"),
    [
        ((256, 2), 1),  # one block has all rows, and their mean
        ((64, 784), 2),
        ((4, 12288), 2),
        ((2, 70_000), 3),  # rows split over blocks: partial sums, norms and their mean, slopes
    ],
)
def test_launches_of_the_penalty(shape: tuple[int, int], launches: int, runtime: Runtime, backend: str) -> None:
    gradients = torch.randn(shape, requires_grad=True)
    before = runtime.launches()
    functional.gradient_norm_penalty(gradients, backend=backend)
    assert runtime.launches() - before == launches


def test_the_penalty_of_split_rows_without_a_slope_is_two_launches(runtime: Runtime, backend: str) -> None:
    before = runtime.launches()
    functional.gradient_norm_penalty(torch.randn(2, 70_000), backend=backend)
    assert runtime.launches() - before == 2


# Partial sums that two threads, part of a warp, several warps and half a block add; rows for one block, and for two.
# fp64 has the smallest parts.
@pytest.mark.parametrize(
    ("shape", "reduction"),
    [
        ((3, 8_201), "none"),
        ((520, 8_201), "mean"),
        ((3, 75_001), "mean"),
        ((5, 270_001), "none"),
        ((1, 2_100_001), "mean"),
    ],
)
def test_split_rows_of_any_number_of_parts(shape: tuple[int, int], reduction: str, cuda_on_host: ModuleType) -> None:
    gradients = torch.randn(shape, dtype=torch.float64) * torch.rand(shape[0], 1) / shape[1] ** 0.5
    options = {"target": 1.0, "one_sided": False, "weight": 10.0, "reduction": reduction, "with_slope": True}
    actual = cuda_on_host.gradient_norm_penalty(gradients, **options)
    expected = reference.gradient_norm_penalty(gradients, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)


def test_the_penalty_has_the_same_bits_every_time_and_at_every_address(backend: str) -> None:
    for shape in ((300, 3), (5, 784), (2, 50_000)):
        gradients = torch.randn(shape)
        values = {functional.gradient_norm_penalty(gradients.clone(), backend=backend).item().hex() for _ in range(3)}
        assert len(values) == 1


def test_a_capture_with_step_counts_on_the_host_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = wgan_fast.optim.Adam([param], backend=backend)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"a CUDA graph is being captured.*capturable=True"):
        optimizer.step()
    assert (param == 1).all()


# ------------------------------------------------------------------------------------------------------ faults


def failing_calls(backend: str) -> dict[str, object]:
    weight, grad, moment = torch.ones(3), torch.ones(3), torch.ones(3)
    step, pair = torch.tensor(1.0), torch.ones(2, 3)
    return {
        "activation_double_backward": lambda: functional.activation_double_backward(
            pair, pair, pair, "silu", backend=backend
        ),
        "clip_weights_": lambda: wgan_fast.clip_weights_(weight, 0.5, backend=backend),
        "interpolate": lambda: wgan_fast.interpolate(pair, pair, backend=backend),
        "gradient_norm_penalty": lambda: wgan_fast.gradient_norm_penalty(pair, backend=backend),
        "norm_double_backward": lambda: functional.norm_double_backward(
            pair, moment[:2], moment[:2], weight, pair, pair, backend=backend
        ),
        "rmsprop_step_": lambda: functional.rmsprop_step_(
            [weight], [grad], [moment], [], [], [step], lr=0.1, backend=backend
        ),
        "adam_step_": lambda: functional.adam_step_(
            [weight], [grad], [moment], [moment], [], [step], lr=0.1, backend=backend
        ),
        "unchanged": lambda: bool((weight == 1).all() and (moment == 1).all() and step == 1),
    }


@pytest.mark.parametrize(
    "op",
    [
        "activation_double_backward",
        "clip_weights_",
        "interpolate",
        "gradient_norm_penalty",
        "norm_double_backward",
        "rmsprop_step_",
        "adam_step_",
    ],
)
def test_a_failing_launch_is_a_sentence_with_the_ops_name(op: str, runtime: Runtime, backend: str) -> None:
    calls = failing_calls(backend)
    runtime.fail(of_launch=NOT_LAUNCHED)
    with pytest.raises(
        RuntimeError, match=f"^{op}: the CUDA kernel could not be launched: invalid configuration argument$"
    ):
        calls[op]()
    runtime.fail(of_device=NO_DEVICE)
    with pytest.raises(
        RuntimeError, match=f"^{op}: CUDA device -1 could not be used: no CUDA-capable device is detected$"
    ):
        calls[op]()
    runtime.fail()
    assert calls["unchanged"]()
    calls[op]()


def test_no_driver_is_a_sentence_and_auto_goes_on(host_extension: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(host_extension)
    monkeypatch.setattr(wgan_fast, "_cuda", host_extension, raising=False)
    monkeypatch.setitem(sys.modules, "wgan_fast._cuda", host_extension)
    monkeypatch.delitem(sys.modules, "wgan_fast.backends.cuda", raising=False)
    monkeypatch.setitem(backends._MODULES, "triton", "wgan_fast.no_triton_here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for cache in (backends._load, backends._choose):
        cache.cache_clear()
    runtime.fail(of_device=35)
    try:
        status = wgan_fast.available_backends()["cuda"]
        assert status == (
            False,
            "the CUDA kernels cannot run here: the CUDA runtime reports: "
            "CUDA driver version is insufficient for CUDA runtime version",
        )
        assert backends.choose("cuda", "auto") is reference
        with pytest.raises(RuntimeError, match=r"backend='cuda' cannot serve cuda tensors: .*insufficient"):
            backends.choose("cuda", "cuda")
    finally:
        runtime.fail()
        for cache in (backends._load, backends._choose):
            cache.cache_clear()


OLD = "device 0 has compute capability 7.x, the kernels need 8.0 or newer"
NEW = (
    "device 0 has compute capability 10.x, for which its driver, of CUDA 13.0, would have to compile the kernels of "
    "CUDA 13.2"
)


@pytest.mark.parametrize(
    ("capability", "driver", "reason"),
    [(8, 13020, ""), (9, 13000, ""), (10, 13020, ""), (12, 13030, ""), (7, 13020, OLD), (10, 13000, NEW)],
)
def test_a_device_without_code_for_it_is_a_reason(
    capability: int, driver: int, reason: str, host_extension: ModuleType
) -> None:
    """The stand-in's toolkit is that of CUDA 13.2."""
    runtime = Runtime(host_extension)
    runtime.become(capability, driver)
    try:
        assert host_extension.unusable() == reason
    finally:
        runtime.become()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_compiled_module_imports_without_a_driver_and_says_what_is_missing() -> None:
    code = """
try:
    from wgan_fast import _cuda
except ImportError:
    raise SystemExit(77)
assert _cuda.unusable().startswith(("the CUDA runtime reports: ", "there is no CUDA device")), _cuda.unusable()
try:
    _cuda.clip_weights(0, 0, [4096], [1], 0, -1.0, 1.0)
except RuntimeError as error:
    assert str(error).startswith("clip_weights_: CUDA device 0 could not be used: "), error
else:
    raise AssertionError("a launch without a device was not noticed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("the CUDA extension was not built")
    assert done.returncode == 0, done.stderr
