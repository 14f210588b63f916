"""Every operation at a round size and then at odd ones in one process: a kernel kept from the first must suit the rest.

Outputs lie between marked margins. For compute-sanitizer, which sees whole allocations, every tensor is one:

PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9 python -m pytest tests/gpu/test_gpu_sequences.py
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from samples import DTYPES, assert_as_close_as, assert_same_bits
from torch import Tensor

from wgan_fast import functional, reference

BATCHES = [64, 62, 63, 1]
ELEMENTS = [4096, 4095, 8192, 8190, 1]
MARGIN = 0 if os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING") else 256  # elements
MARK = 1234.0


class Margins:
    """Contiguous tensors on 16-byte boundaries, between margins that nothing may change."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.buffers: list[tuple[Tensor, int]] = []

    def around(self, values: Tensor) -> Tensor:
        buffer = torch.full((values.numel() + 2 * MARGIN,), MARK, dtype=values.dtype, device=self.device)
        self.buffers.append((buffer, values.numel()))
        return buffer[MARGIN : MARGIN + values.numel()].copy_(values.flatten()).view(values.shape)

    def check(self) -> None:
        for buffer, size in self.buffers:
            assert (buffer[:MARGIN] == MARK).all(), "written before the start"
            assert (buffer[MARGIN + size :] == MARK).all(), "written past the end"


@pytest.fixture
def margins(device: torch.device) -> Any:
    guard = Margins(device)
    yield guard
    guard.check()


def test_the_margins_notice_a_write_outside(device: torch.device) -> None:
    if MARGIN == 0:
        pytest.skip("every tensor is an allocation of its own here")
    guard = Margins(device)
    guard.around(torch.zeros(10))
    guard.buffers[0][0][MARGIN + 10] = 0.0
    with pytest.raises(AssertionError, match="past the end"):
        guard.check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip(dtype: torch.dtype, backend: str, margins: Margins) -> None:
    for size in ELEMENTS:
        values = torch.randn(size).to(dtype)
        there = margins.around(values)
        functional.clip_weights_([there], 0.01, backend=backend)
        assert_same_bits(there.cpu(), values.clamp_(-0.01, 0.01))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 784, 12288])
def test_interpolate(dtype: torch.dtype, size: int, backend: str, margins: Margins) -> None:
    for batch in BATCHES:
        real, fake = (torch.randn(batch, size).to(dtype) for _ in range(2))
        alpha = torch.rand(batch, dtype=reference.accumulation_dtype(dtype))
        out = margins.around(torch.zeros_like(real))
        functional.interpolate(*(margins.around(t) for t in (real, fake, alpha)), out=out, backend=backend)
        exact = reference.interpolate(real.double(), fake.double(), alpha.double())
        assert_as_close_as(out.cpu(), reference.interpolate(real, fake, alpha), exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 784, 12288, 49152])
def test_penalty(dtype: torch.dtype, size: int, backend: str, margins: Margins) -> None:
    """Its outputs are the launcher's own: a new allocation each, which compute-sanitizer watches."""
    options: dict[str, Any] = {"target": 0.7, "weight": 10.0, "reduction": "mean", "one_sided": False}
    for batch in BATCHES:
        gradients = (torch.randn(batch, size) / size**0.5).to(dtype)
        leaf = margins.around(gradients).requires_grad_()
        value, norms = functional.gradient_norm_penalty(leaf, **options, return_norms=True, backend=backend)
        (slope,) = torch.autograd.grad(value, leaf)
        theirs = reference.gradient_norm_penalty(gradients, **options, with_slope=True)
        exact = reference.gradient_norm_penalty(gradients.double(), **options, with_slope=True)
        for mine, yardstick, true in zip((value, norms, slope), theirs, exact, strict=True):
            assert yardstick is not None
            assert true is not None
            assert_as_close_as(mine.detach().cpu(), yardstick, true, magnitude=10.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", ["rmsprop_step_", "adam_step_"])
@pytest.mark.parametrize("counts", ["host", "device"])
def test_steps(step: str, dtype: torch.dtype, counts: str, backend: str, margins: Margins) -> None:
    """Lists of 16 tensors, then of 15 and of 1, of round sizes and odd ones."""
    place = margins.device if counts == "device" else torch.device("cpu")
    for count, size in ((16, 4096), (15, 4095), (1, 8190), (16, 1)):
        lists = [[torch.rand(size).to(dtype) for _ in range(count)] for _ in range(4)]
        steps = [torch.tensor(3.0) for _ in range(count)]
        there = [[margins.around(tensor) for tensor in tensors] for tensors in lists]
        counted = [margins.around(value).to(place) for value in steps]
        wide = [[tensor.double().clone() for tensor in tensors] for tensors in lists]

        def run(columns: list[list[Tensor]], steps: list[Tensor], name: str) -> list[Tensor]:
            used = columns if step == "adam_step_" else columns[:3]
            absent: list[list[Tensor]] = [[]] if step == "adam_step_" else [[], []]
            getattr(functional, step)(*used, *absent, steps, lr=0.1, clip_value=0.5, backend=name)
            return [tensor.cpu() for column in used for tensor in column]

        exact = run(wide, [value.clone() for value in steps], "reference")
        theirs = run(lists, steps, "reference")
        for mine, yardstick, true in zip(run(there, counted, backend), theirs, exact, strict=True):
            assert_as_close_as(mine, yardstick, true, magnitude=1.0)
        assert [value.item() for value in counted] == [4.0] * count
