"""Layer, group, instance and rms norm, whose second derivative is not zero: the double backward as one kernel.

Eager PyTorch differentiates a norm's backward by a chain of 30 to 90 elementwise operations, and writes group
norm's backward itself as such a chain where its graph is kept. Here forward and backward are ATen's own kernels, one
operation each (instance norm is group norm with a group per channel), and the derivatives of the backward are
``norm_double_backward``, one pass over memory. Derivatives beyond that are autograd's, of the reference's formulas.
What is saved is what eager saves.

A replacement takes the arguments of the function that it replaces, and returns NotImplemented for a call that it
leaves to autograd: with running statistics, on empty tensors, and invalid calls, for which eager raises the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from wgan_fast import ops
from wgan_fast.double_backward.zero_gradients import wanted
from wgan_fast.dtypes import DTYPES, PLAIN_TYPES, accumulation_dtype

aten: Any = torch.ops.aten

Statistics = tuple[Tensor | None, Tensor]
"""Mean (None for rms norm) and 1 / sqrt(variance + eps) of each row."""


class Norm(NamedTuple):
    """A norm of rows. ``normalized_shape``: None for group norm; ``num_groups`` and ``centered``: as the kernel has."""

    normalized_shape: tuple[int, ...] | None
    num_groups: int
    centered: bool
    eps: float

    def rows(self, x: Tensor) -> Tensor:
        """x as (B, C, ...), in the terms of the kernel."""
        if self.normalized_shape is None or (x.dim() == 2 and len(self.normalized_shape) == 1):
            return x
        return x.reshape(-1, math.prod(self.normalized_shape))

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """(y, mean, rstd)"""
        if self.normalized_shape is None:
            y, mean, rstd = aten.native_group_norm.default(x, weight, bias, *_sizes(x), self.num_groups, self.eps)
        elif self.centered:
            y, mean, rstd = aten.native_layer_norm.default(x, self.normalized_shape, weight, bias, self.eps)
        else:
            mean, (y, rstd) = None, _rms_norm(x, self.normalized_shape, weight, self.eps)
        return y, mean, rstd

    def backward(
        self, grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, saved: Statistics, mask: list[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients with respect to x, weight and bias that the mask selects."""
        mean, rstd = saved
        if self.normalized_shape is None:
            grad = grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
            sizes = (*_sizes(x), self.num_groups)
            # ATen's kernel needs a weight to compute the gradient of the bias.
            asked = [*mask[:2], mask[2] and weight is not None]
            results = aten.native_group_norm_backward.default(grad, x, mean, rstd, weight, *sizes, asked)
            if asked != mask and bias is not None:
                results = (*results[:2], self.summed(grad, bias))
        elif self.centered:
            shape = self.normalized_shape
            results = aten.native_layer_norm_backward.default(grad, x, shape, mean, rstd, weight, bias, mask)
        else:
            results = (*_rms_norm_backward(grad, x, self, weight, rstd, mask), None)
        to_x, to_weight, to_bias = (result if asked else None for result, asked in zip(results, mask, strict=True))
        return to_x, to_weight, to_bias

    def statistics(self, x: Tensor) -> Statistics:
        """Mean and rstd with a graph."""
        wide = self.rows(x).to(accumulation_dtype(x.dtype))
        rows = wide.reshape(wide.shape[0], self.num_groups, -1)
        if not self.centered:
            return None, (rows.square().mean(2) + self.eps).rsqrt()
        return rows.mean(2), (rows.var(2, unbiased=False) + self.eps).rsqrt()

    def normalized(self, x: Tensor) -> Tensor:
        """x̂ with a graph, in the shape of x."""
        mean, rstd = self.statistics(x)
        rows = x.reshape(*rstd.shape, -1)
        return ((rows if mean is None else rows - mean.unsqueeze(-1)) * rstd.unsqueeze(-1)).reshape(x.shape)

    def summed(self, values: Tensor, like: Tensor) -> Tensor:
        """The sums of values, shaped as x, over all that one entry of ``like``, a weight or a bias, is used for."""
        if self.normalized_shape is None:
            values = values.reshape(*values.shape[:2], -1).movedim(1, 2)
        return values.reshape(-1, like.numel()).sum(0).reshape(like.shape).to(like.dtype)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _rms_norm(x: Tensor, normalized_shape: tuple[int, ...], weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    if x.is_cuda:
        y, rstd = aten._fused_rms_norm.default(x, normalized_shape, weight, eps)
        return y, rstd
    wide = x.to(accumulation_dtype(x.dtype))
    dimensions = list(range(-len(normalized_shape), 0))
    rstd = wide.pow(2).mean(dimensions, keepdim=True).add_(eps).rsqrt_()
    y = wide * rstd
    return (y if weight is None else y.mul_(weight)).to(x.dtype), rstd


def _rms_norm_backward(
    grad: Tensor, x: Tensor, norm: Norm, weight: Tensor | None, rstd: Tensor, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    if x.is_cuda:
        args = (norm.normalized_shape, rstd, weight, mask[:2])
        grad_x, grad_weight = aten._fused_rms_norm_backward.default(grad, x, *args)
        return grad_x, grad_weight
    wide = grad.to(rstd.dtype)
    grad_x = grad_weight = None
    if mask[0]:
        # The norm's derivative is a symmetric matrix: what takes v to the gradient of g takes g to that of x.
        v = grad if weight is None else (wide * weight).to(x.dtype)
        rows = norm.rows(x), norm.rows(v)
        inputs = (rows[0], None, rstd, None, None, rows[1])
        grad_x = ops.norm_double_backward(inputs, 1, (True, False, False), "auto")[0]
        assert grad_x is not None
        grad_x = grad_x.reshape(x.shape)
    if mask[1] and weight is not None:
        grad_weight = norm.summed(wide * (x * rstd), weight)
    return grad_x, grad_weight


class _NormForward(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Norm) -> Tensor:
        ctx.set_materialize_grads(False)
        y, mean, rstd = norm.forward(x, weight, bias)
        ctx.norm = norm
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None, None
        x, weight, bias, mean, rstd = ctx.saved_tensors
        nodes = iter(ctx.next_functions)  # one per tensor
        mask = [given is not None and wanted(next(nodes)[0]) for given in (x, weight, bias)]
        norm: Norm = ctx.norm
        if not torch.is_grad_enabled():
            return *norm.backward(grad, x, weight, bias, (mean, rstd), mask), None
        grad_x = _norm_backward(grad, x, weight, mean, rstd, norm) if mask[0] else None
        grad_weight = norm.summed(grad * norm.normalized(x), weight) if mask[1] else None
        return grad_x, grad_weight, norm.summed(grad, bias) if mask[2] else None, None


class _NormBackward(Function):
    """The gradient with respect to x, whose own derivatives are one kernel."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor, norm: Norm
    ) -> Tensor | None:
        ctx.set_materialize_grads(False)
        ctx.norm = norm
        ctx.save_for_backward(grad, x, weight, mean, rstd)
        return norm.backward(grad, x, weight, None, (mean, rstd), [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> Any:
        if v is None:
            return (None,) * 6
        grad, x, weight, mean, rstd = ctx.saved_tensors
        to_grad, to_x, to_weight = (wanted(node) for node, _ in ctx.next_functions[:3])
        norm: Norm = ctx.norm
        backend = "auto"
        if torch.is_grad_enabled():
            # A graph is kept: the formulas of the reference, which autograd differentiates to any order.
            backend, (mean, rstd) = "reference", norm.statistics(x)
        flat_weight = weight if weight is None or weight.dim() == 1 else weight.reshape(-1)
        inputs = (norm.rows(x), mean, rstd, flat_weight, norm.rows(grad), norm.rows(v))
        needed = (to_grad, to_x, to_weight and weight is not None)
        of_grad, of_x, of_weight = ops.norm_double_backward(inputs, norm.num_groups, needed, backend)
        return _shaped(of_grad, x), _shaped(of_x, x), _shaped(of_weight, weight), None, None, None


def _shaped(values: Tensor | None, like: Tensor | None) -> Tensor | None:
    if values is None or like is None or values.shape == like.shape:
        return values
    return values.reshape(like.shape)


_norm_forward: Callable[..., Tensor] = _NormForward.apply
_norm_backward: Callable[..., Tensor] = _NormBackward.apply


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    return _form(F.layer_norm, input, weight, bias, Norm(tuple(normalized_shape), 1, True, eps))


def _rms_norm_of(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Any:
    if eps is None:
        eps = torch.finfo(accumulation_dtype(input.dtype)).eps
    return _form(F.rms_norm, input, weight, None, Norm(tuple(normalized_shape), 1, False, eps))


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    if input.dim() < 2 or num_groups < 1 or input.shape[1] % num_groups or input.numel() <= num_groups:
        return NotImplemented
    x = input
    if not x.is_contiguous():
        channels_last = x.is_cpu and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        x = x if channels_last else x.contiguous()
    return _form(F.group_norm, x, weight, bias, Norm(None, num_groups, True, eps))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if running_mean is not None or running_var is not None or not use_input_stats or input.dim() < 3:
        return NotImplemented
    if math.prod(input.shape[2:]) <= 1:
        return NotImplemented
    x = input.contiguous()
    return _form(F.instance_norm, x, weight, bias, Norm(None, x.shape[1], True, eps))


def _torch_instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    return _instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _form(function: Callable[..., Tensor], x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Norm) -> Any:
    """Input, weight and bias with the casts of autocast, and the norm."""
    shape = x.shape[1:2] if norm.normalized_shape is None else norm.normalized_shape
    if x.dtype not in DTYPES or x.numel() == 0 or not shape:
        return NotImplemented
    if norm.normalized_shape is not None and x.shape[-len(shape) :] != shape:
        return NotImplemented
    for parameter in (weight, bias):
        if parameter is None:
            continue
        if type(parameter) not in PLAIN_TYPES or parameter.shape != shape or parameter.device != x.device:
            return NotImplemented
    if torch.is_autocast_enabled(x.device.type):
        autocast = torch.get_autocast_dtype(x.device.type)
        if _dtype_under_autocast(function, x.device, x.dtype, autocast) != x.dtype:
            x = x.float()
            weight, bias = (None if t is None else t.float() for t in (weight, bias))
    allowed = {x.dtype} if x.is_cuda or not norm.centered else {x.dtype, torch.float32}
    dtypes = {parameter.dtype for parameter in (weight, bias) if parameter is not None}
    if len(dtypes) > 1 or not dtypes <= allowed:
        return NotImplemented
    return x, weight, bias, norm


@cache
def _dtype_under_autocast(
    function: Callable[..., Tensor], device: torch.device, dtype: torch.dtype, autocast: torch.dtype
) -> torch.dtype:
    """What autocast makes of an input; which functions it converts depends on device and version."""
    with torch._C.DisableTorchFunction(), torch.no_grad():
        x = torch.zeros(1, 2, 2, dtype=dtype, device=device)
        argument: tuple[Any, ...] = () if function is F.instance_norm else ([2],)
        return function(x, *(argument if function is not F.group_norm else (1,))).dtype


def _replaced(form_of: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    form = form_of(*args, **kwargs)
    return form if form is NotImplemented else _norm_forward(*form)


FORMS: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    torch.instance_norm: _torch_instance_norm,
    F.rms_norm: _rms_norm_of,
    torch.rms_norm: _rms_norm_of,
}
"""From the arguments of each function to input, weight, bias and `Norm`, or NotImplemented."""

REPLACEMENTS: dict[Any, Callable[..., Any]] = {function: partial(_replaced, form) for function, form in FORMS.items()}
