"""activation_double_backward: contract, validation, dispatch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from wgan_fast import ops, reference
from wgan_fast.activation_table import ACTIVATIONS
from wgan_fast.functional.arguments import check_alike, check_dtype


def activation_double_backward(
    saved: Tensor,
    grad_output: Tensor,
    grad_grad_input: Tensor,
    activation: str,
    options: Sequence[float] = (),
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The derivatives of an activation's backward in one pass over memory: three tensors read, two written.

    The backward of y = φ(x) is dx = g φ'(x), with g the gradient with respect to y. Given v, the gradient with
    respect to dx, this computes v φ'(x), the gradient with respect to g, and v g φ''(x), the one with respect to x.
    Equivalent to::

        (dx,) = torch.autograd.grad(F.silu(x), x, g, create_graph=True)
        to_g, to_x = torch.autograd.grad(dx, [g, x], v)

    up to rounding, and finite for every finite x, where autograd's chain overflows to NaN for some. Where x, g or v
    is infinite or NaN, the results are finite, infinite or NaN as that chain's are, except that an infinity may
    occur where the chain subtracts two. ``wgan_fast.double_backward.exact_shortcut`` uses it automatically.

    Differentiable with respect to all three tensors, to any order; the graph is that of plain PyTorch operations.

    Args:
        saved: what the forward pass saved: x, or y where the name of the activation ends in ``_result``; then the
            second result is the gradient with respect to y. fp32, fp64, bf16 or fp16, of any shape and layout.
        grad_output, grad_grad_input: g and v; the shape, dtype and device of ``saved``.
        activation, options: a function and the numbers it takes:

            - ``"silu"``, ``"gelu"``, ``"gelu_tanh"``, ``"mish"``, ``"hardswish"``, ``"softsign"``, ``"logsigmoid"``,
              ``"tanh_result"``, ``"sigmoid_result"``: none;
            - ``"elu"``, ``"elu_result"``: (alpha, scale, input_scale), for
              scale x where x > 0, scale alpha (exp(input_scale x) - 1) elsewhere. elu is (alpha, 1, 1), celu
              (alpha, 1, 1 / alpha), selu (1.6732632423543772, 1.0507009873554805, 1);
            - ``"softplus"``: (beta, threshold).
        backend: which backend to use.

    Returns:
        The gradients with respect to ``grad_output`` and ``saved``, in their shape and dtype. Arithmetic in fp32
        (fp64 for fp64), rounded once.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    check_dtype("saved", saved)
    check_alike("grad_output", grad_output, "saved", saved)
    check_alike("grad_grad_input", grad_grad_input, "saved", saved)
    _check_activation(activation, options)
    tensors = (saved, grad_output, grad_grad_input)
    numbers = [float(number) for number in options]
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if recorded:
        both = reference.activation_double_backward(
            *tensors, activation=activation, options=numbers, needed=(True, True)
        )
    elif torch.compiler.is_compiling():
        both = torch.ops.wgan_fast.activation_double_backward(*tensors, activation, numbers, backend)
    else:
        both = ops.activation_double_backward(*tensors, activation, numbers, (True, True), backend)
    return cast(tuple[Tensor, Tensor], both)


def _check_activation(activation: str, options: Sequence[float]) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    names = ACTIVATIONS[activation]
    if len(options) != len(names) or not all(math.isfinite(number) for number in options):
        expected = f"finite numbers ({', '.join(names)})" if names else "none"
        raise ValueError(f"options={tuple(options)!r}: expected {expected} for {activation}")
