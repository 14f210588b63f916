"""The direct form of the convolutions' weight gradient equals ATen's, in every geometry, to every order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_fast.double_backward import exact_shortcut

CONV = {
    "1d": (F.conv1d, (2, 4, 9), (6, 4, 3), {}),
    "1d strided": (F.conv1d, (2, 4, 9), (6, 4, 3), {"stride": 2, "padding": 1}),
    "2d": (F.conv2d, (2, 3, 7, 6), (4, 3, 3, 2), {}),
    "2d strided, padded": (F.conv2d, (2, 3, 8, 8), (4, 3, 4, 4), {"stride": 2, "padding": 1}),
    "2d strided unevenly": (F.conv2d, (2, 3, 8, 7), (4, 3, 3, 2), {"stride": (3, 2), "padding": (1, 0)}),
    "2d dilated": (F.conv2d, (2, 3, 8, 8), (4, 3, 3, 3), {"dilation": (2, 1)}),
    "2d grouped": (F.conv2d, (2, 4, 6, 6), (6, 2, 3, 3), {"groups": 2}),
    "2d depthwise": (F.conv2d, (2, 4, 6, 6), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    "2d 1x1": (F.conv2d, (2, 4, 5, 5), (3, 4, 1, 1), {}),
    "2d same": (F.conv2d, (2, 3, 6, 7), (4, 3, 3, 5), {"padding": "same", "dilation": (2, 1)}),
    "2d valid": (F.conv2d, (2, 3, 6, 7), (4, 3, 3, 5), {"padding": "valid", "stride": 2}),
    "3d": (F.conv3d, (2, 2, 4, 5, 4), (3, 2, 2, 3, 2), {"padding": 1, "stride": (1, 2, 1)}),
    "transposed 1d": (F.conv_transpose1d, (2, 4, 5), (4, 3, 3), {"stride": 2}),
    "transposed 2d": (F.conv_transpose2d, (2, 4, 4, 4), (4, 3, 4, 4), {"stride": 2, "padding": 1}),
    "transposed 2d, all": (
        F.conv_transpose2d,
        (2, 4, 4, 3),
        (4, 2, 3, 3),
        {"stride": 3, "padding": (1, 2), "output_padding": (1, 2), "groups": 2, "dilation": 2},
    ),
    "transposed 3d": (F.conv_transpose3d, (1, 2, 3, 2, 3), (2, 3, 2, 2, 2), {"stride": 2}),
}

LEFT_TO_AUTOGRAD = {
    "2d same, one side more": (F.conv2d, (2, 3, 6, 7), (4, 3, 2, 4), {"padding": "same"}),
    "2d, no batch": (F.conv2d, (3, 6, 7), (4, 3, 3, 3), {}),
}


def orders(
    operation: Callable[..., Tensor],
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    options: dict[str, Any],
    context: AbstractContextManager[Any],
    dtype: torch.dtype = torch.float64,
    memory_format: torch.memory_format = torch.contiguous_format,
    bias: bool = True,
) -> list[Tensor]:
    """Value, first gradients, those of the input gradient and of the weight gradient, and the third order."""
    torch.manual_seed(0)
    x = torch.randn(x_shape, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(weight_shape, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    channels = weight_shape[0] if "transpose" not in operation.__name__ else weight_shape[1] * options.get("groups", 1)
    b = torch.randn(channels, dtype=dtype, requires_grad=True) if bias else None
    leaves = [x, weight] if b is None else [x, weight, b]
    with context:
        y = operation(x, weight, b, **options)
    v = torch.randn_like(y, requires_grad=True)
    first = torch.autograd.grad(y, leaves, v, create_graph=True)
    t = torch.randn_like(x, requires_grad=True)
    second = torch.autograd.grad(first[0], [v, weight], t, create_graph=True)
    if "output_padding" in options:  # ATen cannot go further there
        return [y, *first, *second]
    third = torch.autograd.grad(sum(g.square().sum() for g in second), [v, t, weight])
    mixed = torch.autograd.grad(first[1].square().sum(), [v, x])
    return [y, *first, *second, *third, *mixed]


def is_direct(operation: Callable[..., Tensor], x_shape: Any, weight_shape: Any, options: dict[str, Any]) -> bool:
    with exact_shortcut(direct_convolution=True):
        y = operation(torch.randn(x_shape, requires_grad=True), torch.randn(weight_shape), **options)
    return y.grad_fn.name() == "_ConvolutionBackward"


@pytest.mark.parametrize("case", CONV)
@pytest.mark.parametrize("bias", [True, False])
def test_every_geometry_equals_eager(case: str, bias: bool) -> None:
    direct = orders(*CONV[case], exact_shortcut(direct_convolution=True), bias=bias)
    for ours, eager in zip(direct, orders(*CONV[case], nullcontext(), bias=bias), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-12, atol=1e-12 * float(eager.detach().abs().max()))
    assert is_direct(*CONV[case])


@pytest.mark.parametrize("case", LEFT_TO_AUTOGRAD)
def test_what_is_left_to_autograd(case: str) -> None:
    direct = orders(*LEFT_TO_AUTOGRAD[case], exact_shortcut(direct_convolution=True))
    for ours, eager in zip(direct, orders(*LEFT_TO_AUTOGRAD[case], nullcontext()), strict=True):
        assert torch.equal(ours, eager)
    assert not is_direct(*LEFT_TO_AUTOGRAD[case])


@pytest.mark.parametrize("case", ["2d", "2d strided, padded", "2d grouped", "transposed 2d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_and_low_precision_are_as_near_to_float64_as_eager(case: str, dtype: torch.dtype) -> None:
    exact = orders(*CONV[case], nullcontext())
    form = torch.channels_last
    direct = orders(*CONV[case], exact_shortcut(direct_convolution=True), dtype=dtype, memory_format=form)
    eager = orders(*CONV[case], nullcontext(), dtype=dtype, memory_format=form)
    for a, b, c in zip(direct, eager, exact, strict=True):
        scale = float(c.detach().abs().max())
        error = float((b.detach().double() - c.detach()).abs().max())
        assert float((a.detach().double() - c.detach()).abs().max()) <= 2 * error + 4 * torch.finfo(dtype).eps * scale
    assert [g.stride() for g in direct[:2]] == [g.stride() for g in eager[:2]]


@pytest.mark.parametrize(("asked", "node"), [(None, "_ConvolutionBackward"), (False, "ConvolutionBackward0")])
def test_the_device_chooses_the_form_unless_told(asked: bool | None, node: str) -> None:
    with exact_shortcut(direct_convolution=asked):
        y = F.conv2d(torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3))
    assert y.grad_fn.name() == node


def test_wrong_arguments_raise_eagers_errors() -> None:
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    with exact_shortcut(direct_convolution=True):
        with pytest.raises(RuntimeError, match="expected input"):
            F.conv2d(x, torch.randn(4, 2, 3, 3))
        with pytest.raises(RuntimeError, match="padding"):
            F.conv2d(x, torch.randn(4, 3, 3, 3), padding="some")
        with pytest.raises(RuntimeError):
            F.conv2d(x, torch.randn(4, 3, 3, 3), padding="same", stride=2)
        with pytest.raises(RuntimeError):
            F.conv2d(x, torch.randn(4, 3, 3, 3, dtype=torch.float64))
