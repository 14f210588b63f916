"""Every operation of every GPU backend against the reference on the CPU, in every dtype."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from samples import DTYPES, assert_as_close_as, assert_same_bits, random_with_specials
from torch import Tensor

import wgan_fast
from wgan_fast import reference

SIZES = [0, 1, 7, 16, 2047, 2048, 4095, 4096, 4097, 16385, 100_003]


def at_offset(values: Tensor, offset: int, device: torch.device) -> Tensor:
    """A contiguous copy on the device that starts ``offset`` elements after an allocation, between NaN."""
    buffer = torch.full((values.numel() + offset + 64,), torch.nan, dtype=values.dtype, device=device)
    inside = buffer[offset : offset + values.numel()].view(values.shape)
    return inside.copy_(values)


# ------------------------------------------------------------------------------------------------ clip_weights


@pytest.mark.parametrize("bounds", [(-0.01, 0.01), (-0.5, 0.25), (-math.inf, math.inf), (-math.inf, 0.01)])
def test_clip_has_the_loops_bits_over_mixed_dtypes_and_alignments(
    bounds: tuple[float, float], backend: str, device: torch.device
) -> None:
    values = [random_with_specials(size, dtype) for size in SIZES for dtype in DTYPES for _ in (0, 1, 3)]
    there = [at_offset(value, offset, device) for value, offset in zip(values, [0, 1, 3] * len(values), strict=False)]
    wgan_fast.clip_weights_(there, bounds, backend=backend)
    for actual, expected in zip(there, values, strict=True):
        assert_same_bits(actual.cpu(), expected.clamp_(*bounds))


def test_clip_writes_nothing_outside(backend: str, device: torch.device) -> None:
    buffer = torch.full((50_000,), 7.0, device=device)
    wgan_fast.clip_weights_([buffer[10:11], buffer[33:4200], buffer[5001:40_000]], 0.5, backend=backend)
    expected = torch.full((50_000,), 7.0)
    for piece in (slice(10, 11), slice(33, 4200), slice(5001, 40_000)):
        expected[piece] = 0.5
    assert torch.equal(buffer.cpu(), expected)


def test_clip_of_layouts_that_are_not_flat(backend: str, device: torch.device) -> None:
    tensors = [
        torch.randn(8, 3, 5, 5, device=device).to(memory_format=torch.channels_last),
        torch.randn(60, 70, device=device).t(),
        torch.randn(100, 100, device=device)[:, ::2],
        torch.randn((), device=device),
    ]
    expected = [tensor.cpu().clamp(-0.3, 0.3) for tensor in tensors]
    wgan_fast.clip_weights_(tensors, 0.3, backend=backend)
    for actual, wanted in zip(tensors, expected, strict=True):
        assert torch.equal(actual.cpu(), wanted)


# ------------------------------------------------------------------------------------------------- interpolate


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (256, 2), (64, 784), (7, 1001), (16, 3, 64, 64), (3, 70_001)])
@pytest.mark.parametrize("offset", [0, 1])
def test_interpolate_into_a_slot_of_a_batch(
    dtype: torch.dtype, shape: tuple[int, ...], offset: int, backend: str, device: torch.device
) -> None:
    real, fake = (torch.randn(shape).to(dtype) for _ in range(2))
    alpha = torch.rand(shape[0], dtype=reference.accumulation_dtype(dtype))
    blank = torch.full((3 * shape[0], *shape[1:]), torch.nan, dtype=dtype)
    stacked = at_offset(blank, offset, device)
    slot = stacked[shape[0] : 2 * shape[0]]
    wgan_fast.interpolate(at_offset(real, offset, device), fake.to(device), alpha.to(device), out=slot, backend=backend)
    assert stacked[: shape[0]].isnan().all()
    assert stacked[2 * shape[0] :].isnan().all()
    exact = reference.interpolate(real.double(), fake.double(), alpha.double())
    assert_as_close_as(slot.cpu(), reference.interpolate(real, fake, alpha), exact)


def test_interpolate_draws_alpha_from_a_generator(backend: str, device: torch.device) -> None:
    real, fake = torch.ones(1000, 3, device=device), torch.zeros(1000, 3, device=device)
    drawn = [
        wgan_fast.interpolate(real, fake, generator=torch.Generator(device).manual_seed(3), backend=backend)
        for _ in range(2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0][:, 0], drawn[0][:, 2])
    assert 0.4 < drawn[0].mean() < 0.6


# --------------------------------------------------------------------------------------- gradient_norm_penalty


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (3, 0), (256, 2), (5000, 3), (64, 784), (7, 1001), (16, 3, 64, 64), (4, 3, 128, 128), (2, 200_003)],
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_penalty_value_norms_and_slope(
    dtype: torch.dtype, shape: tuple[int, ...], reduction: str, backend: str, device: torch.device
) -> None:
    gradients = (torch.randn(shape) / math.sqrt(max(1, math.prod(shape[1:])))).to(dtype)
    gradients[shape[0] // 2] = 0.0
    options: dict[str, Any] = {"target": 0.7, "weight": 10.0, "reduction": reduction, "one_sided": shape[0] % 2 == 0}
    exact = reference.gradient_norm_penalty(gradients.double(), **options, with_slope=True)
    theirs = reference.gradient_norm_penalty(gradients, **options, with_slope=True)
    for offset in (0, 1):
        leaf = at_offset(gradients, offset, device).requires_grad_()
        value, norms = wgan_fast.gradient_norm_penalty(leaf, **options, return_norms=True, backend=backend)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        for mine, yardstick, true in zip((value, norms, slope), theirs, exact, strict=True):
            assert yardstick is not None
            assert true is not None
            assert_as_close_as(mine.detach().cpu(), yardstick, true, magnitude=10.0)
        again, _ = wgan_fast.gradient_norm_penalty(leaf, **options, return_norms=True, backend=backend)
        assert torch.equal(again, value)


def test_penalty_of_nan_and_infinity(backend: str, device: torch.device) -> None:
    gradients = torch.randn(3, 900, device=device)
    gradients[0, 5] = torch.nan
    gradients[1, 5] = torch.inf
    value = wgan_fast.gradient_norm_penalty(gradients, reduction="none", backend=backend)
    assert [bool(value[0].isnan()), bool(value[1].isinf()), bool(value[2].isfinite())] == [True] * 3


# ---------------------------------------------------------------------------------------------- optimizer_step

CASES: list[tuple[str, dict[str, Any]]] = [
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "weight_decay": 0.01}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "maximize": True}),
    ("Adam", {"betas": (0.0, 0.9)}),
    ("Adam", {"betas": (0.5, 0.9), "weight_decay": 0.01, "amsgrad": True}),
    ("Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
]
SHAPES = [(3, 4), (70_001,), (), (17, 3, 4, 4), (4096,), (0, 2)]


def trained(name: str, dtype: torch.dtype, device: torch.device, backend: str, **options: Any) -> list[Tensor]:
    """Weights after three steps; weights and gradients are rounded to bf16 first, so that every dtype starts alike."""
    generator = torch.Generator().manual_seed(0)

    def normal(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16().to(device=device, dtype=dtype)

    params = [normal(shape).mul_(0.015625).requires_grad_() for shape in SHAPES]
    optimizer = getattr(wgan_fast.optim, name)(params, **{"lr": 1e-3, **options}, clip_value=0.02, backend=backend)
    for _ in range(3):
        for param in params:
            param.grad = normal(tuple(param.shape))
        optimizer.step()
    return [param.detach().cpu() for param in params]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("where", ["host", "device"])
def test_steps(
    name: str, options: dict[str, Any], dtype: torch.dtype, where: str, backend: str, device: torch.device
) -> None:
    placed = dict(options)
    if where == "device":
        placed |= {"capturable": True, "lr": torch.tensor(1e-3, dtype=torch.float64, device=device)}
    cpu = torch.device("cpu")
    exact = trained(name, torch.float64, cpu, "reference", **options)
    theirs = trained(name, dtype, cpu, "reference", **options)
    mine = trained(name, dtype, device, backend, **placed)
    for actual, yardstick, true in zip(mine, theirs, exact, strict=True):
        assert_as_close_as(actual, yardstick, true, magnitude=0.1)
        assert actual.isfinite().all()
        assert not actual.numel() or actual.abs().max() <= torch.tensor(0.02, dtype=dtype)
