"""Launchers of the CUDA C++ kernels (``csrc/cuda``): addresses and sizes in; no copies, no synchronisation.

Everything runs on the current stream of the tensors' device, and may be captured in a CUDA graph: addresses travel
as kernel parameters, and a learning rate or step counts that live on the device are read there at every replay.
The kernels see memory as flat blocks, so a launcher takes the tensors whose elements are dense and whose companions
(gradients, moments) lie the same way, and returns the positions of the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wgan_fast.activation_table import ACTIVATION_CODES, three_numbers
from wgan_fast.dtypes import CODES, accumulation_dtype
from wgan_fast.memory_layout import (
    address,
    contiguous_alike,
    dense_alike,
    divided,
    interpolation_operands,
    lie_alike,
    penalty_operands,
)
from wgan_fast.norm_arguments import (
    Inputs,
    Results,
    as_given,
    chunks_of,
    folded,
    norm_inputs,
    norm_results,
    norm_shape,
    repeated,
)
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

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
    rest: list[int] = []
    if not contiguous_alike([tensors]):
        (tensors,), rest = divided([tensors], [lie_alike([tensor]) for tensor in tensors])
    keys = [(tensor.get_device(), tensor.dtype) for tensor in tensors]
    for (device, dtype), (alike,) in _grouped(keys, [tensors]):
        addresses, sizes = list(map(Tensor.data_ptr, alike)), list(map(Tensor.numel, alike))
        _launch(_cuda.clip_weights, device, addresses, sizes, CODES[dtype], lo, hi)
    return rest


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, out: Tensor | None = None) -> Tensor:
    *inputs, mixed = interpolation_operands(real, fake, alpha, out)
    addresses = map(Tensor.data_ptr, (*inputs, mixed))
    _launch(_cuda.interpolate, real.get_device(), *addresses, real.shape[0], real.numel(), CODES[real.dtype])
    return mixed if out is None or mixed is out else out.copy_(mixed)


def gradient_norm_penalty(
    gradients: Tensor, *, target: float, one_sided: bool, weight: float, reduction: str, with_slope: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    gradients, slope, norms, value = penalty_operands(gradients, reduction, with_slope)
    batch, total, code = gradients.shape[0], gradients.numel(), CODES[gradients.dtype]
    needed = _cuda.penalty_workspace(batch, total // batch if batch else 0, code)
    workspace = torch.empty(needed, dtype=norms.dtype, device=norms.device)
    addresses = map(address, (gradients, slope, norms, value, workspace))
    rule = (target, one_sided, weight, reduction)
    _launch(_cuda.gradient_norm_penalty, gradients.get_device(), *addresses, batch, total, code, *rule)
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
    addresses = map(address, (saved, g, v, to_output, to_saved))
    rule = (ACTIVATION_CODES[activation], *three_numbers(options))
    size, code = saved.numel(), CODES[saved.dtype]
    _launch(_cuda.activation_double_backward, saved.get_device(), *addresses, size, code, *rule)
    return to_output, to_saved


def norm_double_backward(*tensors: Unpack[Inputs], num_groups: int, needed: tuple[bool, bool, bool]) -> Results:
    x, weight = tensors[0], tensors[3]
    inputs = norm_inputs(*tensors)
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
    inputs = (*inputs[:3], repeated(inputs[3], positions), *inputs[4:])
    addresses = map(address, (*inputs, to_output, to_x, values, partials, workspace))
    shape = (batch, channels, positions, num_groups)
    _launch(_cuda.norm_double_backward, x.get_device(), *addresses, chunks, *shape, code)
    return as_given((to_output, to_x, None if values is None else folded(values, positions)), x, weight)


def rmsprop_step_(lists: Sequence[Sequence[Tensor]], options: RMSpropOptions) -> list[int]:
    return _step(_cuda.rmsprop_step, lists, 2, options)


def adam_step_(lists: Sequence[Sequence[Tensor]], options: AdamOptions) -> list[int]:
    return _step(_cuda.adam_step, lists, 1, options)


def _step(
    kernel: Callable[..., None],
    lists: Sequence[Sequence[Tensor]],
    optional: int,
    options: RMSpropOptions | AdamOptions,
) -> list[int]:
    """One launch for each device and dtype, which also advances the counts that are on the host.

    ``optional``: how many of the lists before the last, the step counts, are empty in some variants.
    """
    *lists, steps = lists
    variant = list(map(bool, lists[-optional:]))
    columns = [*lists[:-optional], *filter(None, lists[-optional:])]
    rest: list[int] = []
    if not (contiguous_alike(columns) and _on_one_device(columns, steps)):
        taken = [_counted(step, row[0]) and lie_alike(row) for step, *row in zip(steps, *columns, strict=True)]
        (steps, *columns), rest = divided([steps, *columns], taken)
    on_host = [step.is_cpu for step in steps]
    if any(on_host) and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a CUDA graph is being captured and the optimizer counts its steps on the host, where a replay does not: "
            "make it with capturable=True"
        )
    keys = list(zip(map(Tensor.get_device, columns[0]), [param.dtype for param in columns[0]], on_host, strict=True))
    for (device, dtype, counts_on_host), (counts, *alike) in _grouped(keys, [steps, *columns]):
        lr_there = _on_device(options.lr, alike[0][0].device)
        numbers = [list(map(Tensor.numel, alike[0])), *(list(map(Tensor.data_ptr, t)) for t in (counts, *alike))]
        _launch(
            kernel,
            device,
            numbers,
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


def _counted(step: Tensor, param: Tensor) -> bool:
    """True where a count is in fp32, on the host or beside its parameter."""
    return step.dtype == torch.float32 and (step.is_cpu or step.device == param.device)


def _on_one_device(columns: Sequence[Sequence[Tensor]], steps: Sequence[Tensor]) -> bool:
    """True in the usual case: all of a parameter on its device, the counts there too or all on the host; in fp32."""
    devices = list(map(Tensor.get_device, columns[0]))
    return (
        all(list(map(Tensor.get_device, tensors)) == devices for tensors in columns[1:])
        and {step.dtype for step in steps} <= {torch.float32}
        and (all([step.is_cpu for step in steps]) or list(map(Tensor.get_device, steps)) == devices)
    )


def _on_device(lr: float | Tensor, device: torch.device) -> Tensor | None:
    """A learning rate for the kernel to read, where it lives on a device."""
    if not isinstance(lr, Tensor) or lr.is_cpu:
        return None
    return lr.to(device=device, dtype=accumulation_dtype(lr.dtype))
