"""The Triton launchers against the reference on small inputs that cross the edges of small tiles, unaligned too."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from guards import Guarded
from samples import DTYPES, assert_as_close_as, assert_same_bits, random_with_specials
from torch import Tensor

from wgan_fast import reference
from wgan_fast.backends.triton import clip_weights, multi_tensor, optimizer_step
from wgan_fast.backends.triton.clip_weights import clip_weights_
from wgan_fast.backends.triton.gradient_norm_penalty import gradient_norm_penalty
from wgan_fast.backends.triton.interpolate import interpolate
from wgan_fast.backends.triton.optimizer_step import adam_step_, rmsprop_step_
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

pytestmark = [
    pytest.mark.usefixtures("small_tiles"),
    pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning"),
]
SIZES = [0, 1, 17, 31, 32, 33, 64, 70]


# ------------------------------------------------------------------------------------------------ clip_weights


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_crosses_tiles_at_every_alignment(dtype: torch.dtype) -> None:
    guard = Guarded()
    tensors = [guard.like(random_with_specials(size, dtype), offset) for size in SIZES for offset in (0, 1, 3)]
    expected = [tensor.clone() for tensor in tensors]
    reference.clip_weights_(expected, -0.01, 0.02)
    assert clip_weights_(tensors, -0.01, 0.02) == []
    guard.check()
    for actual, wanted in zip(tensors, expected, strict=True):
        assert_same_bits(actual, wanted)


def test_clip_leaves_out_what_is_not_dense_and_takes_the_rest() -> None:
    class Tagged(torch.Tensor):
        pass

    tensors = [
        torch.ones(40),
        torch.ones(8, 8)[:, ::2],
        torch.ones(3, 5).t(),
        torch.ones(3).as_subclass(Tagged),
    ]
    assert clip_weights_(tensors, -0.5, 0.5) == [1, 3]
    assert [bool((tensor == 0.5).all()) for tensor in tensors] == [True, False, True, False]


def test_the_margins_notice_a_chunk_that_is_one_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = multi_tensor.chunk_rows

    def too_long(*arguments: Any) -> Tensor:
        rows = honest(*arguments)
        rows[-1, 0] -= 1  # masked chunks have negative sizes
        return rows

    monkeypatch.setattr(multi_tensor, "chunk_rows", too_long)
    guard = Guarded()
    clip_weights_([guard.like(torch.ones(45))], -0.5, 0.5)
    with pytest.raises(AssertionError, match="written past the end"):
        guard.check()


# ------------------------------------------------------------------------------------------------- interpolate


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 2), (40, 2), (3, 31), (3, 32), (2, 33), (2, 3, 5, 7), (1, 200)])
@pytest.mark.parametrize("offset", [0, 1])
def test_interpolate_into_a_slot_of_a_batch(dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> None:
    real, fake = (torch.randn(shape).to(dtype) for _ in range(2))
    alpha = torch.rand(shape[0], dtype=reference.accumulation_dtype(dtype))
    guard = Guarded()
    stacked = guard.like(torch.full((3 * shape[0], *shape[1:]), torch.nan, dtype=dtype), offset)
    slot = stacked[2 * shape[0] :]
    assert interpolate(guard.like(real, offset), fake, alpha, slot) is slot
    guard.check()
    assert stacked[: 2 * shape[0]].isnan().all()
    exact = reference.interpolate(real.double(), fake.double(), alpha.double())
    assert_as_close_as(slot, reference.interpolate(real, fake, alpha), exact)


# --------------------------------------------------------------------------------------- gradient_norm_penalty


@pytest.mark.usefixtures("guarded_allocations")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (40, 2), (3, 16), (9, 5), (3, 17), (3, 48), (9, 33), (1, 200), (3, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_penalty_of_short_and_of_split_rows(dtype: torch.dtype, shape: tuple[int, int], reduction: str) -> None:
    gradients = (torch.randn(shape) / math.sqrt(max(1, shape[1]))).to(dtype)
    gradients[shape[0] // 2] = 0.0
    options: dict[str, Any] = {
        "target": 0.7,
        "weight": 10.0,
        "reduction": reduction,
        "one_sided": shape[1] % 2 == 0,
    }
    wide = reference.accumulation_dtype(dtype)
    for view in (gradients, Guarded().like(gradients, offset=1)):
        actual = gradient_norm_penalty(view, **options, with_slope=True)
        exact = reference.gradient_norm_penalty(gradients.double(), **options, with_slope=True)
        theirs = reference.gradient_norm_penalty(gradients, **options, with_slope=True)
        assert [tensor.dtype for tensor in actual if tensor is not None] == [wide, wide, dtype]
        for mine, yardstick, true in zip(actual, theirs, exact, strict=True):
            assert mine is not None
            assert yardstick is not None
            assert true is not None
            assert mine.shape == true.shape
            assert_as_close_as(mine, yardstick, true, magnitude=10.0)
        value, norms, slope = gradient_norm_penalty(view, **options, with_slope=False)
        assert slope is None
        assert torch.equal(value, actual[0])
        assert torch.equal(norms, actual[1])


# ---------------------------------------------------------------------------------------------- optimizer_step

RMSPROP: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"centered": True, "maximize": True},
    {"centered": True, "momentum": 0.5},
]
ADAM: list[dict[str, Any]] = [
    {},
    {"beta1": 0.0},
    {"weight_decay": 0.01, "maximize": True},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
    {"amsgrad": True},
]
CASES = [("rmsprop", options) for options in RMSPROP] + [("adam", options) for options in ADAM]


def state(name: str, options: dict[str, Any], dtype: torch.dtype, guard: Guarded, offsets: list[int]) -> list[Any]:
    """The lists of a step, every list at an offset of its own, after 4 steps (the first tensor: after none)."""
    used = [True, True, True, options.get("centered", False), options.get("momentum", 0) > 0]
    if name == "adam":
        used = [True, True, True, True, options.get("amsgrad", False)]
    columns: list[list[Tensor]] = []
    for position, wanted in enumerate(used):
        values = [torch.randn(size, dtype=torch.float64) * 0.02 for size in SIZES] if wanted else []
        # Second moments and their maxima are positive; those of the centred variant exceed the squared mean.
        if (name, position) in (("rmsprop", 2), ("adam", 3), ("adam", 4)):
            values = [value.abs() + 0.01 for value in values]
        columns.append([guard.like(value.to(dtype), offsets[position]) for value in values])
    return [*columns, [torch.tensor(4.0 if i else 0.0) for i in range(len(SIZES))]]


def numbers(name: str, options: dict[str, Any], lr: float | Tensor) -> RMSpropOptions | AdamOptions:
    common = {"lr": lr, "eps": 1e-6, "weight_decay": 0.0, "maximize": False, "lo": -0.03, "hi": 0.02}
    special: dict[str, Any] = {"alpha": 0.9, "momentum": 0.0}
    if name == "adam":
        special = {"beta1": 0.5, "beta2": 0.9, "decoupled_weight_decay": False}
    chosen = {key: value for key, value in options.items() if key not in ("centered", "amsgrad")}
    kind = AdamOptions if name == "adam" else RMSpropOptions
    return kind(**{**common, **special, **chosen})


def copies(lists: list[list[Tensor]], dtype: torch.dtype) -> list[list[Tensor]]:
    return [[tensor.to(dtype, copy=True) for tensor in tensors] for tensors in lists[:-1]] + [
        [step.clone() for step in lists[-1]]
    ]


PLACES: list[tuple[list[int], str]] = [
    ([0] * 5, "host"),
    ([3] * 5, "host"),
    ([1, 0, 0, 2, 0], "host"),
    ([0] * 5, "device"),
]


# Every case with every dtype; each of these with every place, and so all pairs: 36 of the 144 combinations.
@pytest.mark.parametrize(
    ("name", "options", "dtype", "offsets", "where"),
    [(*case, dtype, *PLACES[(i + j) % len(PLACES)]) for i, case in enumerate(CASES) for j, dtype in enumerate(DTYPES)],
)
def test_steps_cross_tiles_at_every_alignment(
    name: str,
    options: dict[str, Any],
    dtype: torch.dtype,
    offsets: list[int],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``device``: learning rate and step counts are read by the kernel, as inside a CUDA graph."""
    guard = Guarded()
    lists = state(name, options, dtype, guard, offsets)
    theirs, exact = copies(lists, dtype), copies(lists, torch.float64)
    lr: float | Tensor = 1e-2
    if where == "device":
        monkeypatch.setattr(optimizer_step, "on_device", lambda tensor: True)
        lr = torch.tensor(1e-2, dtype=torch.float64)
    launcher, specified = (rmsprop_step_, reference.rmsprop_step_)
    if name == "adam":
        launcher, specified = (adam_step_, reference.adam_step_)
    arguments = numbers(name, options, lr)
    assert launcher(lists, arguments) == []
    guard.check()
    specified(theirs, arguments._replace(lr=1e-2))
    specified(exact, arguments._replace(lr=1e-2))
    assert [step.item() for step in lists[-1]] == [step.item() for step in exact[-1]]
    for mine, yardstick, true in zip(lists[:-1], theirs[:-1], exact[:-1], strict=True):
        for actual, close, right in zip(mine, yardstick, true, strict=True):
            assert_as_close_as(actual, close, right, magnitude=0.03)


def test_a_step_leaves_out_what_does_not_lie_alike() -> None:
    params = [torch.zeros(6, 6), torch.zeros(6, 6), torch.zeros(6, 6), torch.zeros(6, 6)]
    grads = [torch.ones(6, 6), torch.ones(6, 6).t(), torch.ones(6, 12)[:, ::2], torch.ones(6, 6)]
    averages = [torch.zeros(6, 6) for _ in params]
    steps = [torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0, dtype=torch.float64)]
    arguments = numbers("rmsprop", {}, 1e-2)
    assert rmsprop_step_([params, grads, averages, [], [], steps], arguments) == [1, 2, 3]
    assert [step.item() for step in steps] == [1.0, 0.0, 0.0, 0.0]
    assert [bool(param.any()) for param in params] == [True, False, False, False]


def test_the_tiles_of_these_tests_are_small() -> None:
    """Without this a renamed constant would let every test here run on one large tile."""
    assert clip_weights.BLOCK == optimizer_step.BLOCK == 32
    rows = multi_tensor.chunk_rows(torch.tensor([[1024]]), torch.tensor([100]), 4, clip_weights.BLOCK, 3)
    assert rows[:, 0].tolist() == [32, 32, 32, -3, -1]
