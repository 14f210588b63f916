"""interpolate against torch.lerp, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from samples import DTYPES, assert_as_close_as, random_with_specials
from torch import Tensor

from wgan_fast import interpolate

SHAPES = [
    (1, 1),
    (3, 2),
    (5, 7),
    (64, 2),
    (4, 3, 8, 8),
    (17, 129),
    (2, 40_000),
    (64, 3, 32, 32),
    (0, 5),
    (4, 0),
    (6,),
]


def column(alpha: Tensor, like: Tensor) -> Tensor:
    return alpha.reshape(-1, *[1] * (like.dim() - 1))


@pytest.mark.usefixtures("guarded_allocations")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_as_close_to_fp64_as_lerp(dtype: torch.dtype, shape: tuple[int, ...], backend: str) -> None:
    real, fake = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    alpha = torch.rand(shape[0])
    actual = interpolate(real, fake, alpha, backend=backend)
    exact = torch.lerp(fake.double(), real.double(), column(alpha.double(), real))
    yardstick = torch.lerp(fake, real, column(alpha.to(dtype), real)) if dtype != torch.float64 else exact
    assert actual.shape == real.shape
    assert actual.dtype == dtype
    if actual.numel():
        assert_as_close_as(actual, yardstick, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_are_exact(dtype: torch.dtype, backend: str) -> None:
    real, fake = torch.randn(4, 100).to(dtype), torch.randn(4, 100).to(dtype)
    assert torch.equal(interpolate(real, fake, torch.zeros(4), backend=backend), fake)
    assert torch.equal(interpolate(real, fake, torch.ones(4), backend=backend), real)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinities_as_lerp_has_them(dtype: torch.dtype, backend: str) -> None:
    real, fake = (random_with_specials(6 * 50, dtype).reshape(6, 50) for _ in range(2))
    alpha = torch.tensor([0.0, 0.2, 0.49, 0.5, 0.9, 1.0])
    expected = torch.lerp(fake, real, column(alpha, real).to(dtype))
    actual = interpolate(real, fake, alpha, backend=backend)
    assert torch.equal(torch.isnan(actual), torch.isnan(expected))
    assert torch.equal(actual.isinf(), expected.isinf())


def test_layouts(backend: str) -> None:
    real, fake = torch.randn(4, 3, 6, 5), torch.randn(4, 3, 6, 5)
    alpha = torch.rand(4)
    expected = interpolate(real, fake, alpha, backend=backend)
    channels_last = real.to(memory_format=torch.channels_last)
    assert torch.equal(interpolate(channels_last, fake, alpha, backend=backend), expected)
    mixed = interpolate(channels_last, fake.to(memory_format=torch.channels_last), alpha, backend=backend)
    assert torch.equal(mixed, expected)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    wide = torch.randn(4, 3, 6, 10)
    wide[..., ::2] = real
    assert torch.equal(interpolate(wide[..., ::2], fake, alpha, backend=backend), expected)
    transposed = real.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(interpolate(transposed, fake, alpha, backend=backend), expected)
    assert torch.equal(interpolate(real[:1].expand(4, -1, -1, -1), fake, alpha, backend=backend)[0], expected[0])


def test_out_may_be_a_slot_of_a_stacked_batch(backend: str) -> None:
    real, fake, alpha = torch.randn(5, 33), torch.randn(5, 33), torch.rand(5)
    stacked = torch.full((15, 33), 7.0)
    result = interpolate(real, fake, alpha, out=stacked[10:], backend=backend)
    assert result.data_ptr() == stacked[10:].data_ptr()
    assert torch.equal(stacked[10:], interpolate(real, fake, alpha, backend=backend))
    assert (stacked[:10] == 7.0).all()
    strided = torch.zeros(5, 66)[:, ::2]
    assert torch.equal(interpolate(real, fake, alpha, out=strided, backend=backend), stacked[10:])


def test_out_may_overlap_its_sources(backend: str) -> None:
    alpha = torch.rand(4)
    for place in (slice(0, 4), slice(1, 5), slice(2, 6)):
        buffer, other = torch.randn(6, 33), torch.randn(4, 33)
        expected = interpolate(buffer[1:5].clone(), other, alpha, backend=backend)
        assert torch.equal(interpolate(buffer[1:5], other, alpha, out=buffer[place], backend=backend), expected)
        assert torch.equal(buffer[place], expected)


def test_a_written_out_bumps_its_version(backend: str) -> None:
    real, fake, alpha, out = torch.randn(5, 3), torch.randn(5, 3), torch.rand(5), torch.zeros(5, 3)
    before = out._version
    interpolate(real, fake, alpha, out=out, backend=backend)
    assert out._version > before


def test_alpha_is_drawn_one_a_sample_from_the_generator(backend: str) -> None:
    real, fake = torch.ones(1000, 2, 3), torch.zeros(1000, 2, 3)
    mixed = interpolate(real, fake, generator=torch.Generator().manual_seed(5), backend=backend)
    again = interpolate(real, fake, generator=torch.Generator().manual_seed(5), backend=backend)
    assert torch.equal(mixed, again)
    assert torch.equal(mixed, mixed[:, :1, :1].expand_as(mixed))
    alpha = mixed[:, 0, 0]
    assert alpha.unique().numel() > 990
    assert 0.0 <= alpha.min() < 0.02
    assert 0.98 < alpha.max() < 1.0
    # In bf16 a draw of the dtype itself could take 256 values only.
    low = interpolate(real.bfloat16() * 1000, fake.bfloat16(), backend=backend)
    assert low[:, 0, 0].unique().numel() > 256


def test_gradients(backend: str) -> None:
    real, fake = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    alpha = torch.rand(3, dtype=torch.float64)
    inputs = tuple(tensor.requires_grad_() for tensor in (real, fake, alpha))
    assert torch.autograd.gradcheck(lambda r, f, a: interpolate(r, f, a, backend=backend), inputs)
    assert torch.autograd.gradgradcheck(lambda r, f, a: interpolate(r, f, a, backend=backend), inputs)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3, 2), torch.ones(3, 4)), ValueError, r"real and fake: .*\(3, 2\).*\(3, 4\)"),
        ((torch.ones(3, 2), torch.ones(3, 2).double()), ValueError, r"float32 .*float64"),
        ((torch.ones(3, 2).int(), torch.ones(3, 2).int()), TypeError, r"real: .*int32"),
        ((torch.ones(()), torch.ones(())), ValueError, r"0-dimensional"),
        ((torch.ones(3, 2), torch.ones(3, 2), torch.ones(2)), ValueError, r"alpha: .*\(3,\).*got \(2,\)"),
        ((torch.ones(3, 2), torch.ones(3, 2), torch.ones(3, 2)), ValueError, r"alpha: .*got \(3, 2\)"),
        ((torch.ones(3, 2), torch.ones(3, 2), torch.ones(1, 3)), ValueError, r"alpha: .*got \(1, 3\)"),
        ((torch.ones(3, 2), torch.ones(3, 2), 0.5), TypeError, r"alpha=0.5"),
    ],
)
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        interpolate(*arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_bad_out_is_named() -> None:
    real = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"out: expected \(3, 2\).*got \(2, 2\)"):
        interpolate(real, real, out=torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"out: .* memory of their own"):
        interpolate(real, real, out=torch.zeros(1, 2).expand(3, 2))
    with pytest.raises(ValueError, match=r"out: cannot be used while autograd records"):
        interpolate(real.clone().requires_grad_(), real, out=torch.zeros(3, 2))


def test_an_inference_tensor_as_out_is_refused_outside_of_inference_mode(backend: str) -> None:
    with torch.inference_mode():
        out = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="an inference tensor cannot be changed in place"):
        interpolate(torch.zeros(2, 3), torch.zeros(2, 3), out=out, backend=backend)
    assert (out == 1).all()
