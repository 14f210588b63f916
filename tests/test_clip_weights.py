"""clip_weights_ against the loop of clamp_ that it replaces: the same bits, in every dtype, layout and mixture."""

from __future__ import annotations

import pytest
import torch
from samples import DTYPES, SIZES, assert_same_bits, random_with_specials, special_values
from torch import Tensor, nn

import wgan_fast
from wgan_fast import clip_weights_

BOUNDS = [
    0.01,
    1.0,
    1e-30,
    float("inf"),
    (-0.5, 0.25),
    (0.0, 1.0),
    (-1.0, -0.0),
    (0.0, 0.0),
    (-float("inf"), 0.0),
]


def loop(tensors: list[Tensor], clip_value: float | tuple[float, float]) -> None:
    lo, hi = clip_value if isinstance(clip_value, tuple) else (-clip_value, clip_value)
    for tensor in tensors:
        tensor.data.clamp_(lo, hi)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip_value", BOUNDS)
def test_every_size_has_the_loops_bits(dtype: torch.dtype, clip_value: float, backend: str) -> None:
    tensors = [random_with_specials(size, dtype) for size in SIZES]
    expected = [tensor.clone() for tensor in tensors]
    loop(expected, clip_value)
    clip_weights_(tensors, clip_value, backend=backend)
    for actual, wanted in zip(tensors, expected, strict=True):
        assert_same_bits(actual, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values_one_by_one(dtype: torch.dtype, backend: str) -> None:
    for value in special_values(dtype):
        for size in (1, 70):
            actual, expected = value.repeat(size), value.repeat(size)
            loop([expected], 0.01)
            clip_weights_(actual, 0.01, backend=backend)
            assert_same_bits(actual, expected)


def every_half(dtype: torch.dtype) -> Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_65536_halves(dtype: torch.dtype, backend: str) -> None:
    actual, expected = every_half(dtype), every_half(dtype)
    loop([expected], 0.3)
    clip_weights_(actual, 0.3, backend=backend)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("clip_value", BOUNDS)
def test_all_65536_halves_at_every_bound_on_the_cpu(dtype: torch.dtype, clip_value: float) -> None:
    actual, expected = every_half(dtype), every_half(dtype)
    loop([expected], clip_value)
    clip_weights_(actual, clip_value)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_written_outside_the_tensors(dtype: torch.dtype, backend: str) -> None:
    buffer = torch.full((5000,), 7.0, dtype=dtype)
    views = [buffer[10:11], buffer[20:87], buffer[101:1130], buffer[2003:4700]]
    clip_weights_(views, 0.5, backend=backend)
    inside = torch.zeros(5000, dtype=torch.bool)
    for start, stop in ((10, 11), (20, 87), (101, 1130), (2003, 4700)):
        inside[start:stop] = True
    assert torch.equal(buffer, torch.where(inside, 0.5, 7.0).to(dtype))


def test_mixed_dtypes_layouts_and_shapes_in_one_list(backend: str) -> None:
    def make() -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        return [
            normal(3, 4),
            normal(40000).double(),
            normal(8, 3, 5, 5).to(memory_format=torch.channels_last),
            normal(6, 7).bfloat16().t(),
            normal(0, 4),
            normal(()),
            normal(10, 10)[:, ::2],
            normal(10, 10).half()[3:7, 1:4],
            normal(50, 1, 3).transpose(0, 2),
            nn.Parameter(normal(33)),
        ]

    actual, expected = make(), make()
    loop(expected, 0.3)
    clip_weights_(actual, 0.3, backend=backend)
    for mine, theirs in zip(actual, expected, strict=True):
        assert_same_bits(mine.detach(), theirs.detach())


def test_shared_tensors_and_overlapping_views(backend: str) -> None:
    base = torch.randn(100_000)
    expected = base.clone().clamp_(-0.1, 0.1)
    clip_weights_([base, base, base[5:70_000], base[40_000:]], 0.1, backend=backend)
    assert torch.equal(base, expected)


def test_a_module_gives_its_parameters_and_keeps_its_buffers(backend: str) -> None:
    critic = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 1))
    critic[1].running_mean.fill_(9.0)
    weights = [p.detach().clone().clamp_(-0.05, 0.05) for p in critic.parameters()]
    assert clip_weights_(critic, 0.05, backend=backend) is None
    for mine, theirs in zip(critic.parameters(), weights, strict=True):
        assert torch.equal(mine, theirs)
    assert (critic[1].running_mean == 9.0).all()


def test_a_generator_a_tuple_and_a_single_tensor_are_taken(backend: str) -> None:
    a, b = torch.randn(9), torch.randn(9)
    clip_weights_((tensor for tensor in (a, b)), 0.1, backend=backend)
    clip_weights_((a, b), 0.05, backend=backend)
    clip_weights_(a, 0.01, backend=backend)
    assert a.abs().max() == torch.tensor(0.01)
    assert b.abs().max() <= 0.05
    clip_weights_([], 0.01, backend=backend)


def test_a_tensor_saved_for_backward_and_then_clipped_is_noticed(backend: str) -> None:
    weight = torch.randn(40, requires_grad=True)
    loss = (weight * weight).sum()
    clip_weights_([weight], 0.01, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_leaves_keep_their_grad_and_requires_grad(backend: str) -> None:
    weight = torch.randn(40, requires_grad=True)
    weight.grad = torch.ones(40)
    clip_weights_([weight], 0.01, backend=backend)
    assert weight.requires_grad
    assert weight.is_leaf
    assert torch.equal(weight.grad, torch.ones(40))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        tensors = [torch.randn(size) for size in SIZES]
        expected = [tensor.clamp(-0.2, 0.2) for tensor in tensors]
        clip_weights_(tensors, 0.2)
    finally:
        torch.set_num_threads(before)
    for actual, wanted in zip(tensors, expected, strict=True):
        assert torch.equal(actual, wanted)


def test_inside_inference_mode(backend: str) -> None:
    with torch.inference_mode():
        weight = torch.randn(70)
        expected = weight.clamp(-0.1, 0.1)
        clip_weights_([weight], 0.1, backend=backend)
        assert torch.equal(weight, expected)


def test_an_inference_tensor_is_refused_outside_of_inference_mode_as_torch_refuses_it(backend: str) -> None:
    with torch.inference_mode():
        frozen, torchs = torch.ones(4), torch.ones(4)
    normal = torch.ones(3)
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"), torch.no_grad():
        torchs.clamp_(-0.5, 0.5)
    with pytest.raises(RuntimeError, match="an inference tensor cannot be changed in place"):
        clip_weights_([normal, frozen], 0.5, backend=backend)
    assert (frozen == 1).all()
    assert (normal == 1).all()


class Tagged(torch.Tensor):
    """A tensor subclass, as libraries make them."""


def test_subclasses_take_the_way_through_torch(backend: str) -> None:
    weight = torch.randn(70).as_subclass(Tagged)
    expected = weight.clamp(-0.1, 0.1)
    clip_weights_([weight], 0.1, backend=backend)
    assert torch.equal(weight, expected)


@pytest.mark.parametrize(
    ("parameters", "clip_value", "error", "message"),
    [
        ([torch.ones(3)], 0.0, ValueError, r"clip_value=0.0"),
        ([torch.ones(3)], -1.0, ValueError, r"clip_value=-1.0"),
        ([torch.ones(3)], float("nan"), ValueError, r"clip_value=nan"),
        ([torch.ones(3)], (2.0, 1.0), ValueError, r"clip_value=\(2.0, 1.0\)"),
        ([torch.ones(3)], (float("nan"), 1.0), ValueError, r"clip_value=\(nan, 1.0\)"),
        ([torch.ones(3)], "0.01x", TypeError, r"clip_value='0.01x'"),
        ([torch.ones(3)], (1.0, 2.0, 3.0), TypeError, r"clip_value=\(1.0, 2.0, 3.0\)"),
        ([torch.ones(3)], None, TypeError, r"clip_value=None"),
        (3, 0.01, TypeError, r"parameters: .* got int"),
        ([torch.ones(3), "x"], 0.01, TypeError, r"parameters\[1\]: .* got str"),
        ([torch.ones(3), ("name", torch.ones(3))], 0.01, TypeError, r"named_parameters\(\) yields pairs"),
        ([torch.ones(3), torch.ones(3, dtype=torch.int64)], 0.01, TypeError, r"parameters\[1\]: .*int64"),
        (
            [torch.ones(3), torch.ones(3, dtype=torch.complex64)],
            0.01,
            TypeError,
            r"parameters\[1\]: .*complex64",
        ),
        ([torch.ones(3), torch.ones(1).expand(3)], 0.01, ValueError, r"parameters\[1\]: an expanded tensor"),
    ],
)
def test_bad_input_is_named_and_nothing_has_changed(
    parameters: object, clip_value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        wgan_fast.clip_weights_(parameters, clip_value)  # type: ignore[arg-type]  # wrong on purpose
    if isinstance(parameters, list):
        assert torch.equal(parameters[0], torch.ones(3))
