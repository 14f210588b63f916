"""Launchers of the C++ kernels for CPU tensors (``csrc/cpu``): addresses and sizes in, nothing copied.

The kernels see memory as flat blocks, so a launcher takes the tensors whose elements are dense and whose
companions (gradients, moments) lie the same way, and returns the positions of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wgan_fast.memory_layout import has_dense_samples, is_dense

try:
    from wgan_fast import _cpu
except ImportError as error:
    raise ImportError(
        "the C++ kernels were not built: install a C++ compiler and run 'pip install' again "
        f"(WGAN_FAST_CPU=1 makes a failed build an error) [{error}]"
    ) from error

DEVICE_TYPES = ("cpu",)

_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_WIDE = {torch.float32: torch.float32, torch.float64: torch.float64}
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def clip_weights_(tensors: Sequence[Tensor], lo: float, hi: float) -> list[int]:
    addresses, sizes, codes, rest = [], [], [], []
    for i, tensor in enumerate(tensors):
        code = _CODES.get(tensor.dtype, -1)
        if code < 0 or type(tensor) not in _PLAIN_TYPES or not (tensor.is_contiguous() or is_dense(tensor)):
            rest.append(i)
            continue
        addresses.append(tensor.data_ptr())
        sizes.append(tensor.numel())
        codes.append(code)
    _cpu.clip_weights(addresses, sizes, codes, lo, hi, torch.get_num_threads())
    return rest


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, out: Tensor | None = None) -> Tensor:
    if not has_dense_samples(real):
        real = real.contiguous()
    if fake.stride() != real.stride():
        fake = torch.empty_like(real).copy_(fake)
    alpha = alpha.contiguous()
    mixed = torch.empty_like(real) if out is None or out.stride() != real.stride() else out
    _cpu.interpolate(
        real.data_ptr(),
        fake.data_ptr(),
        alpha.data_ptr(),
        mixed.data_ptr(),
        real.shape[0],
        real.numel(),
        _CODES[real.dtype],
        torch.get_num_threads(),
    )
    return mixed if out is None or mixed is out else out.copy_(mixed)


def gradient_norm_penalty(
    gradients: Tensor, *, target: float, one_sided: bool, weight: float, reduction: str, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    if not has_dense_samples(gradients):
        gradients = gradients.contiguous()
    batch = gradients.shape[0]
    wide = _WIDE.get(gradients.dtype, torch.float32)
    norms = torch.empty(batch, dtype=wide)
    value = torch.empty((batch,) if reduction == "none" else (), dtype=wide)
    slope = torch.empty_like(gradients) if with_slope else None
    _cpu.gradient_norm_penalty(
        gradients.data_ptr(),
        slope.data_ptr() if slope is not None else 0,
        norms.data_ptr(),
        value.data_ptr(),
        batch,
        gradients.numel(),
        _CODES[gradients.dtype],
        target,
        one_sided,
        weight,
        reduction,
        torch.get_num_threads(),
    )
    return value, norms, slope


def _takes(param: Tensor, companions: list[Tensor], step: Tensor) -> bool:
    if param.dtype not in _CODES or type(param) not in _PLAIN_TYPES or step.dtype != torch.float32:
        return False
    if step.device.type != "cpu" or any(other.dtype != param.dtype for other in companions):
        return False
    if param.is_contiguous():
        return all(other.is_contiguous() for other in companions)
    return is_dense(param) and all(other.stride() == param.stride() for other in companions)


def _table(lists: list[Sequence[Tensor]], steps: Sequence[Tensor]) -> tuple[list[list[int]], list[int]]:
    """Rows (dtype code, size, address of the step count, then one address a list) and the positions left out."""
    rows, rest = [], []
    for i, (step, param, *companions) in enumerate(zip(steps, *lists, strict=True)):
        if _takes(param, companions, step):
            addresses = [other.data_ptr() for other in companions]
            rows.append([_CODES[param.dtype], param.numel(), step.data_ptr(), param.data_ptr(), *addresses])
        else:
            rest.append(i)
    return rows, rest


def rmsprop_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    grad_avgs: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float | Tensor,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
    lo: float,
    hi: float,
) -> list[int]:
    optional = [tensors for tensors in (grad_avgs, momentum_buffers) if tensors]
    rows, rest = _table([params, grads, square_avgs, *optional], steps)
    _cpu.rmsprop_step(
        rows,
        bool(grad_avgs),
        bool(momentum_buffers),
        (float(lr), alpha, eps, weight_decay, momentum, lo, hi),
        maximize,
        torch.get_num_threads(),
    )
    return rest


def adam_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
    lo: float,
    hi: float,
) -> list[int]:
    optional = [max_exp_avg_sqs] if max_exp_avg_sqs else []
    rows, rest = _table([params, grads, exp_avgs, exp_avg_sqs, *optional], steps)
    _cpu.adam_step(
        rows,
        bool(max_exp_avg_sqs),
        (float(lr), beta1, beta2, eps, weight_decay, lo, hi),
        decoupled_weight_decay,
        maximize,
        torch.get_num_threads(),
    )
    return rest
