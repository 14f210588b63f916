"""norm_double_backward: contract, validation, dispatch."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from wgan_fast import ops, reference
from wgan_fast.functional.arguments import check_alike, check_dtype, describe
from wgan_fast.norm_arguments import Results


def norm_double_backward(
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    grad_output: Tensor,
    grad_grad_input: Tensor,
    num_groups: int = 1,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The derivatives of a norm's backward in one pass over memory: three tensors read, two written.

    The norms of a (B, C, ...) tensor differ in ``num_groups``, the groups of channels of a sample that are normalised
    apart: 1 for layer norm, of ``x.flatten(-len(normalized_shape))`` as a (B, C) tensor, any number for group norm, C
    for instance norm; rms norm is layer norm without a mean. Equivalent to::

        y = F.group_norm(x, num_groups, weight, bias)
        (dx,) = torch.autograd.grad(y, x, grad_output, create_graph=True)
        to_output, to_x, to_weight = torch.autograd.grad(dx, [grad_output, x, weight], grad_grad_input)

    up to rounding; NaN and infinities spread over the same rows. ``wgan_fast.double_backward.exact_shortcut`` uses it
    automatically. The weight's gradient is summed in a fixed order: the same input gives the same bits.

    Differentiable with respect to all tensors, to any order; the graph is that of plain PyTorch operations. It extends
    through ``mean`` and ``rstd``, so a complete derivative needs them computed from ``x``.

    Args:
        x: the norm's input, (B, C) or (B, C, ...); fp32, fp64, bf16 or fp16, of any layout.
        mean, rstd: of the rows, 1 / sqrt(variance + eps) for rstd: B x num_groups values each, of any floating
            dtype, as ``torch.native_layer_norm`` and ``torch.native_group_norm`` return them. A mean of None is
            that of rms norm, with 1 / sqrt(mean square + eps) for rstd.
        weight: (C,), of any floating dtype, or None.
        grad_output, grad_grad_input: the gradients with respect to the norm's output and to dx; the shape, dtype and
            device of x.
        num_groups: a divisor of C.
        backend: which backend to use.

    Returns:
        The gradients with respect to ``grad_output`` and ``x``, in the shape and dtype of x, and ``weight``, in its
        own, or None without one. Arithmetic in fp32 (fp64 for fp64), rounded once.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    check_dtype("x", x)
    if x.dim() < 2:
        raise ValueError(f"x: expected shape (B, C) or (B, C, ...), got {tuple(x.shape)}")
    check_alike("grad_output", grad_output, "x", x)
    check_alike("grad_grad_input", grad_grad_input, "x", x)
    _check_rows(x, num_groups, mean, rstd, weight)
    tensors = (x, mean, rstd, weight, grad_output, grad_grad_input)
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors if tensor is not None)
    needed = (True, True, weight is not None)
    results: Results
    if recorded:
        results = reference.norm_double_backward(*tensors, num_groups=num_groups, needed=needed)
    elif torch.compiler.is_compiling():
        to_output, to_x, to_weight = torch.ops.wgan_fast.norm_double_backward(*tensors, num_groups, backend)
        results = (to_output, to_x, to_weight if weight is not None else None)
    else:
        results = ops.norm_double_backward(tensors, num_groups, needed, backend)
    return cast("tuple[Tensor, Tensor, Tensor | None]", results)  # Dynamo of torch 2.9 refuses the union


def _check_rows(x: Tensor, num_groups: int, mean: Tensor | None, rstd: Tensor, weight: Tensor | None) -> None:
    """As many statistics as there are rows, as many weights as channels."""
    batch, channels = x.shape[:2]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"num_groups={num_groups!r}: expected a divisor of the {channels} channels of x")
    sizes = {"mean": batch * num_groups, "rstd": batch * num_groups, "weight": channels}
    for name, optional in (("mean", mean), ("rstd", rstd), ("weight", weight)):
        if optional is None and name != "rstd":
            continue
        if not isinstance(optional, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(optional).__name__}")
        if optional.numel() != sizes[name] or not optional.is_floating_point() or optional.device != x.device:
            raise ValueError(
                f"{name}: expected {sizes[name]} floating-point values on {x.device}, got {describe(optional)}"
            )
