"""Launchers of the CUDA C++ kernels (``csrc/cuda``): addresses and sizes in; no copies, no synchronisation.

Everything runs on the current stream of the tensors' device, and may be captured in a CUDA graph: addresses travel
as kernel parameters, and a learning rate or step counts that live on the device are read there at every replay.
The kernels see memory as flat blocks, so a launcher takes the tensors whose elements are dense and whose companions
(gradients, moments) lie the same way, and returns the positions of the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from wgan_fast.activation_table import ACTIVATION_CODES, three_numbers
from wgan_fast.dtypes import CODES, PLAIN_TYPES, accumulation_dtype
from wgan_fast.memory_layout import address, dense_alike, has_dense_samples, is_dense
from wgan_fast.norm_arguments import (
    as_given,
    chunks_of,
    folded,
    norm_inputs,
    norm_results,
    norm_shape,
    repeated,
)
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

try:
    from wgan_fast import _cuda
except ImportError as error:
    raise ImportError(
        "the CUDA kernels were not built: put nvcc of the CUDA toolkit on PATH and run 'pip install' again "
        f"(WGAN_FAST_CUDA=1 makes a failed build an error) [{error}]"
    ) from error

if not torch.cuda.is_available():
    raise ImportError("the CUDA kernels cannot run here: torch finds no usable CUDA device")
if _reason := _cuda.unusable():
    raise ImportError(f"the CUDA kernels cannot run here: {_reason}")

DEVICE_TYPES = ("cuda",)


def _current_stream(device: int) -> int:
    # torch.cuda.current_stream builds a Python object, which costs more than the launch; Triton does the same.
    return int(torch._C._cuda_getCurrentRawStream(device))


def _launch(kernel: Callable[..., None], device: int, *arguments: Any) -> None:
    """Run a function of ``_cuda`` on the current stream of ``device``, which it finds to be the current device."""
    if device == torch.cuda.current_device():
        kernel(device, _current_stream(device), *arguments)
    else:
        with torch.cuda.device(device):
            kernel(device, _current_stream(device), *arguments)


def _grouped(keys: Sequence[Hashable], lists: list[Sequence[Tensor]]) -> list[tuple[Any, list[Sequence[Tensor]]]]:
    """Parallel lists cut into those of equal key, in order of appearance: one group in the usual case."""
    distinct = dict.fromkeys(keys)
    if len(distinct) == 1:
        return [(key, lists) for key in distinct]
    chosen = {key: [other == key for other in keys] for key in distinct}
    return [(key, [list(itertools.compress(tensors, mask)) for tensors in lists]) for key, mask in chosen.items()]


def clip_weights_(tensors: Sequence[Tensor], lo: float, hi: float) -> list[int]:
    taken = [type(t) in PLAIN_TYPES and (t.is_contiguous() or is_dense(t)) for t in tensors]
    if not all(taken):
        rest = [i for i, usable in enumerate(taken) if not usable]
        tensors = list(itertools.compress(tensors, taken))
    else:
        rest = []
    keys = [(tensor.get_device(), tensor.dtype) for tensor in tensors]
    for (device, dtype), (alike,) in _grouped(keys, [tensors]):
        addresses, sizes = list(map(Tensor.data_ptr, alike)), list(map(Tensor.numel, alike))
        _launch(_cuda.clip_weights, device, addresses, sizes, CODES[dtype], lo, hi)
    return rest


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, out: Tensor | None = None) -> Tensor:
    if not has_dense_samples(real):
        real = real.contiguous()
    if fake.stride() != real.stride():
        fake = torch.empty_like(real).copy_(fake)
    alpha = alpha.contiguous()
    mixed = torch.empty_like(real) if out is None or out.stride() != real.stride() else out
    _launch(
        _cuda.interpolate,
        real.get_device(),
        real.data_ptr(),
        fake.data_ptr(),
        alpha.data_ptr(),
        mixed.data_ptr(),
        real.shape[0],
        real.numel(),
        CODES[real.dtype],
    )
    return mixed if out is None or mixed is out else out.copy_(mixed)


def gradient_norm_penalty(
    gradients: Tensor, *, target: float, one_sided: bool, weight: float, reduction: str, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    if not has_dense_samples(gradients):
        gradients = gradients.contiguous()
    batch, total, code = gradients.shape[0], gradients.numel(), CODES[gradients.dtype]
    wide = accumulation_dtype(gradients.dtype)
    norms = torch.empty(batch, dtype=wide, device=gradients.device)
    value = torch.empty((batch,) if reduction == "none" else (), dtype=wide, device=gradients.device)
    slope = torch.empty_like(gradients) if with_slope else None
    needed = _cuda.penalty_workspace(batch, total // batch if batch else 0, code)
    workspace = torch.empty(needed, dtype=wide, device=gradients.device)
    _launch(
        _cuda.gradient_norm_penalty,
        gradients.get_device(),
        gradients.data_ptr(),
        slope.data_ptr() if slope is not None else 0,
        norms.data_ptr(),
        value.data_ptr(),
        workspace.data_ptr(),
        batch,
        total,
        code,
        target,
        one_sided,
        weight,
        reduction,
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
    saved, v, g = dense_alike(saved, grad_grad_input, grad_output if needed[1] else None)
    to_output, to_saved = (torch.empty_like(saved) if wanted else None for wanted in needed)
    _launch(
        _cuda.activation_double_backward,
        saved.get_device(),
        address(saved),
        address(g),
        address(v),
        address(to_output),
        address(to_saved),
        saved.numel(),
        CODES[saved.dtype],
        ACTIVATION_CODES[activation],
        *three_numbers(options),
    )
    return to_output, to_saved


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
    to_output, to_x, to_weight = norm_results(inputs, needed)
    batch, channels, positions = norm_shape(x)
    if x.numel() == 0:
        return as_given((to_output, to_x, None if to_weight is None else to_weight.zero_()), x, weight)
    size, code, wide = channels // num_groups * positions, CODES[x.dtype], inputs[2]
    # Two blocks per multiprocessor of an H100, of several workers each where rows are short.
    programs = 264 * max(1, 1024 // size)
    chunks, _ = chunks_of(batch, num_groups, size, to_weight is not None, programs)
    values = partials = None
    if to_weight is not None:
        values, partials = wide.new_empty(channels * positions), wide.new_empty(chunks * channels * positions)
    workspace = wide.new_empty(_cuda.norm_workspace(batch * num_groups, size, code))
    tensors = (*inputs[:3], repeated(inputs[3], positions), *inputs[4:], to_output, to_x, values, partials, workspace)
    addresses = (0 if tensor is None else tensor.data_ptr() for tensor in tensors)
    shape = (batch, channels, positions, num_groups)
    _launch(_cuda.norm_double_backward, x.get_device(), *addresses, chunks, *shape, code)
    return as_given((to_output, to_x, None if values is None else folded(values, positions)), x, weight)


def _takes(param: Tensor, companions: tuple[Tensor, ...], step: Tensor) -> bool:
    """True where a kernel can walk over a parameter and its companions together."""
    if type(param) not in PLAIN_TYPES or step.dtype != torch.float32:
        return False
    if not step.is_cpu and step.device != param.device:
        return False
    return is_dense(param) and all(
        other.dtype == param.dtype and other.device == param.device and other.stride() == param.stride()
        for other in companions
    )


def _all_taken(lists: list[Sequence[Tensor]], steps: Sequence[Tensor]) -> bool:
    """The usual case, decided column by column: for a hundred tensors a loop over rows would cost three times this."""
    dtypes, devices = [param.dtype for param in lists[0]], list(map(Tensor.get_device, lists[0]))
    return (
        PLAIN_TYPES.issuperset(map(type, lists[0]))
        and all(all(map(Tensor.is_contiguous, tensors)) for tensors in lists)
        and all([tensor.dtype for tensor in tensors] == dtypes for tensors in lists[1:])
        and all(list(map(Tensor.get_device, tensors)) == devices for tensors in lists[1:])
        and {step.dtype for step in steps} <= {torch.float32}
        and (all([step.is_cpu for step in steps]) or list(map(Tensor.get_device, steps)) == devices)
    )


def _step(
    kernel: Callable[..., None],
    lists: list[Sequence[Tensor]],
    steps: Sequence[Tensor],
    variant: tuple[bool, ...],
    options: RMSpropOptions | AdamOptions,
) -> list[int]:
    """One launch for each device and dtype, which also advances the counts that are on the host."""
    rest: list[int] = []
    if not _all_taken(lists, steps):
        taken = [_takes(row[0], tuple(row[1:]), step) for step, *row in zip(steps, *lists, strict=True)]
        rest = [i for i, usable in enumerate(taken) if not usable]
        lists = [list(itertools.compress(tensors, taken)) for tensors in lists]
        steps = list(itertools.compress(steps, taken))
    on_host = [step.is_cpu for step in steps]
    if any(on_host) and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a CUDA graph is being captured and the optimizer counts its steps on the host, where a replay does not: "
            "make it with capturable=True"
        )
    keys = list(zip(map(Tensor.get_device, lists[0]), [param.dtype for param in lists[0]], on_host, strict=True))
    for (device, dtype, counts_on_host), (counts, *alike) in _grouped(keys, [steps, *lists]):
        lr_there = _on_device(options.lr, alike[0][0].device)
        columns = [list(map(Tensor.numel, alike[0])), *(list(map(Tensor.data_ptr, t)) for t in (counts, *alike))]
        _launch(
            kernel,
            device,
            columns,
            CODES[dtype],
            not counts_on_host,
            *variant,
            lr_there.data_ptr() if lr_there is not None else 0,
            lr_there is not None and lr_there.dtype == torch.float64,
            options if lr_there is None else options._replace(lr=0.0),
        )
        if not counts_on_host:
            torch._foreach_add_(list(counts), 1)
    return rest


def _on_device(lr: float | Tensor, device: torch.device) -> Tensor | None:
    """A learning rate for the kernel to read, where it lives on a device."""
    if not isinstance(lr, Tensor) or lr.is_cpu:
        return None
    return lr.to(device=device, dtype=accumulation_dtype(lr.dtype))


def rmsprop_step_(lists: Sequence[Sequence[Tensor]], options: RMSpropOptions) -> list[int]:
    params, grads, square_avgs, grad_avgs, momentum_buffers, steps = lists
    optional = [tensors for tensors in (grad_avgs, momentum_buffers) if tensors]
    variant = (bool(grad_avgs), bool(momentum_buffers))
    return _step(_cuda.rmsprop_step, [params, grads, square_avgs, *optional], steps, variant, options)


def adam_step_(lists: Sequence[Sequence[Tensor]], options: AdamOptions) -> list[int]:
    params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps = lists
    optional = [max_exp_avg_sqs] if max_exp_avg_sqs else []
    variant = (bool(max_exp_avg_sqs),)
    return _step(_cuda.adam_step, [params, grads, exp_avgs, exp_avg_sqs, *optional], steps, variant, options)
