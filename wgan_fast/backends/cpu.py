"""Launchers of the C++ kernels for CPU tensors (``csrc/cpu``): addresses and sizes in, nothing copied.

The kernels see memory as flat blocks, so a launcher takes the tensors whose elements are dense and whose
companions (gradients, moments) lie the same way, and returns the positions of the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from wgan_fast.activation_table import ACTIVATION_CODES, three_numbers
from wgan_fast.dtypes import CODES, PLAIN_TYPES, accumulation_dtype
from wgan_fast.memory_layout import dense_alike, has_dense_samples, is_dense
from wgan_fast.norm_arguments import as_given, norm_inputs, norm_results, norm_shape
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

try:
    from wgan_fast import _cpu
except ImportError as error:
    raise ImportError(
        "the C++ kernels were not built: install a C++ compiler and run 'pip install' again "
        f"(WGAN_FAST_CPU=1 makes a failed build an error) [{error}]"
    ) from error

DEVICE_TYPES = ("cpu",)


def clip_weights_(tensors: Sequence[Tensor], lo: float, hi: float) -> list[int]:
    rest = [i for i, tensor in enumerate(tensors) if not (tensor.is_contiguous() or is_dense(tensor))]
    if not PLAIN_TYPES.issuperset(map(type, tensors)):
        rest = sorted({*rest, *(i for i, tensor in enumerate(tensors) if type(tensor) not in PLAIN_TYPES)})
    if rest:
        left_over = set(rest)
        tensors = [tensor for i, tensor in enumerate(tensors) if i not in left_over]
    _cpu.clip_weights(
        [tensor.data_ptr() for tensor in tensors],
        [tensor.numel() for tensor in tensors],
        [CODES[tensor.dtype] for tensor in tensors],
        lo,
        hi,
        torch.get_num_threads(),
    )
    return rest


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, out: Tensor | None = None) -> Tensor:
    if not (real.is_contiguous() and fake.is_contiguous()):
        real = real if has_dense_samples(real) else real.contiguous()
        fake = fake if fake.stride() == real.stride() else torch.empty_like(real).copy_(fake)
    alpha = alpha.contiguous()
    mixed = torch.empty_like(real) if out is None or out.stride() != real.stride() else out
    _cpu.interpolate(
        real.data_ptr(),
        fake.data_ptr(),
        alpha.data_ptr(),
        mixed.data_ptr(),
        real.shape[0],
        real.numel(),
        CODES[real.dtype],
        torch.get_num_threads(),
    )
    return mixed if out is None or mixed is out else out.copy_(mixed)


def gradient_norm_penalty(
    gradients: Tensor, *, target: float, one_sided: bool, weight: float, reduction: str, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    if not has_dense_samples(gradients):
        gradients = gradients.contiguous()
    batch = gradients.shape[0]
    wide = accumulation_dtype(gradients.dtype)
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
        CODES[gradients.dtype],
        target,
        one_sided,
        weight,
        reduction,
        torch.get_num_threads(),
    )
    return value, norms, slope


def activation_double_backward(
    saved: Tensor,
    grad_output: Tensor | None,
    grad_grad_input: Tensor,
    *,
    activation: str,
    options: Sequence[float],
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    saved, g, v = dense_alike(saved, grad_output if needed[1] else None, grad_grad_input)
    results = [torch.empty_like(saved) if wanted else None for wanted in needed]
    _cpu.activation_double_backward(
        saved.data_ptr(),
        *(0 if tensor is None else tensor.data_ptr() for tensor in (g, v, *results)),
        saved.numel(),
        CODES[saved.dtype],
        ACTIVATION_CODES[activation],
        *three_numbers(options),
        torch.get_num_threads(),
    )
    return results[0], results[1]


def norm_double_backward(
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    grad_output: Tensor | None,
    grad_grad_input: Tensor,
    *,
    num_groups: int,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    inputs = norm_inputs(x, mean, rstd, weight, grad_output, grad_grad_input)
    results = norm_results(inputs, needed)
    _cpu.norm_double_backward(
        *(0 if tensor is None else tensor.data_ptr() for tensor in (*inputs, *results)),
        *norm_shape(x),
        num_groups,
        CODES[x.dtype],
        torch.get_num_threads(),
    )
    return as_given(results, x, weight)


def _all_contiguous(lists: list[Sequence[Tensor]], steps: Sequence[Tensor]) -> bool:
    """The usual case, decided column by column: for a hundred tensors a loop over rows would cost three times this."""
    dtypes = [param.dtype for param in lists[0]]
    return (
        PLAIN_TYPES.issuperset(map(type, lists[0]))
        and all(all(map(Tensor.is_contiguous, tensors)) for tensors in lists)
        and all([tensor.dtype for tensor in tensors] == dtypes for tensors in lists[1:])
        and all([step.is_cpu and step.dtype == torch.float32 for step in steps])
    )


def _takes(param: Tensor, companions: tuple[Tensor, ...], step: Tensor) -> bool:
    """True where a kernel can walk over a parameter and its companions together."""
    if type(param) not in PLAIN_TYPES or step.dtype != torch.float32 or not step.is_cpu:
        return False
    alike = all(other.dtype == param.dtype and other.stride() == param.stride() for other in companions)
    return alike and is_dense(param)


def _columns(lists: list[Sequence[Tensor]], steps: Sequence[Tensor]) -> tuple[list[int], list[list[int]], list[int]]:
    """What the step kernels take, one number per parameter: dtype codes; columns of sizes, addresses of the step
    counts and addresses of each list. And the positions of the parameters left out."""
    rest: list[int] = []
    if not _all_contiguous(lists, steps):
        taken = [_takes(row[0], tuple(row[1:]), step) for step, *row in zip(steps, *lists, strict=True)]
        rest = [i for i, usable in enumerate(taken) if not usable]
        lists = [list(itertools.compress(tensors, taken)) for tensors in lists]
        steps = list(itertools.compress(steps, taken))
    codes, sizes = [CODES[param.dtype] for param in lists[0]], list(map(Tensor.numel, lists[0]))
    return codes, [sizes, *(list(map(Tensor.data_ptr, tensors)) for tensors in (steps, *lists))], rest


def rmsprop_step_(lists: Sequence[Sequence[Tensor]], options: RMSpropOptions) -> list[int]:
    params, grads, square_avgs, grad_avgs, momentum_buffers, steps = lists
    optional = [tensors for tensors in (grad_avgs, momentum_buffers) if tensors]
    codes, columns, rest = _columns([params, grads, square_avgs, *optional], steps)
    threads = torch.get_num_threads()
    _cpu.rmsprop_step(codes, columns, bool(grad_avgs), bool(momentum_buffers), options, threads)
    return rest


def adam_step_(lists: Sequence[Sequence[Tensor]], options: AdamOptions) -> list[int]:
    params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps = lists
    optional = [max_exp_avg_sqs] if max_exp_avg_sqs else []
    codes, columns, rest = _columns([params, grads, exp_avgs, exp_avg_sqs, *optional], steps)
    _cpu.adam_step(codes, columns, bool(max_exp_avg_sqs), options, torch.get_num_threads())
    return rest
