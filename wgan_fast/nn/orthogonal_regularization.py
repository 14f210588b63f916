"""Orthogonal regularisation of all layers, its gradient in closed form.

For W of m rows (outputs) and n columns, m <= n,

    P     = ‖W Wᵀ - I‖²_F            P     = ‖W Wᵀ ∘ (1 - I)‖²_F       (off the diagonal alone)
    dP/dW = 4 (W Wᵀ - I) W           dP/dW = 4 (W Wᵀ ∘ (1 - I)) W

For m > n the first form is of the columns, ‖Wᵀ W - I‖² = ‖W Wᵀ - I‖² - (m - n): the same gradient, from the smaller
Gram matrix. The second form is of the rows whatever the shape (the filters, whose angles it opens while their norms
stay free); its gradient comes from the smaller Gram matrix too, as (W Wᵀ) W = W (Wᵀ W).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wgan_fast.nn.matrices import as_matrix, from_matrix, matrix_layers, outputs_dim

Form = Literal["full", "off-diagonal"]


@torch.no_grad()
def add_orthogonal_gradients_(critic: nn.Module, weight: float = 1e-4, *, form: Form = "full") -> Tensor:
    """Add the gradient of ``weight`` times the orthogonal penalty of all layers to their weights' ``.grad``.

    Equivalent to, for each linear and convolution layer with ``W = layer.weight.flatten(1)``::

        penalty = ((W.T @ W - torch.eye(W.shape[1])) ** 2).sum()     # W @ W.T where that is the smaller one
        (weight * penalty).backward()

    without autograd and without a host sync. Brock et al. 2017 (Neural Photo Editing with Introspective Adversarial
    Networks), equation 3; with ``form="off-diagonal"`` Brock et al. 2019 (BigGAN), equation 5, whose authors' code
    has half of this gradient.

    Args:
        critic: any module; weights that need no gradient, or that a parametrization computes, are left out.
        weight: of the penalty.
        form: ``full``, or ``off-diagonal``: the products of different rows (filters) alone.

    Returns:
        The weighted penalty of the weights as they are, 0-dimensional.

    Raises:
        ValueError: no layer with a weight to regularise, or an unknown form.
    """
    if form not in ("full", "off-diagonal"):
        raise ValueError(f"form={form!r}: expected 'full' or 'off-diagonal'")
    values = []
    for _, layer in matrix_layers(critic):
        parameter = layer._parameters.get("weight")
        if parameter is None or not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        with torch.autocast(parameter.device.type, enabled=False):
            values.append(_add_gradient_(parameter, parameter.grad, outputs_dim(layer), weight, form))
    if not values:
        raise ValueError("critic: expected linear or convolution layers with a weight to regularise, found none")
    return weight * torch.stack(values).sum()


def _add_gradient_(parameter: Tensor, gradient: Tensor, outputs: int, weight: float, form: Form) -> Tensor:
    matrix, target = as_matrix(parameter, outputs), as_matrix(gradient, outputs)
    in_place = target.data_ptr() == gradient.data_ptr() and target.dtype not in (torch.bfloat16, torch.float16)
    if not in_place:
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        target = torch.zeros_like(matrix)
    value = _add_matrix_gradient_(matrix, target, 4 * weight, form)
    if not in_place:
        gradient.add_(from_matrix(target, gradient.shape, outputs))
    return value


def _add_matrix_gradient_(matrix: Tensor, target: Tensor, scale: float, form: Form) -> Tensor:
    """target += scale / 4 * dP/dW, as one product accumulated in place; returns P."""
    rows, columns = matrix.shape
    wide = rows <= columns
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    norms = None
    if form == "full":
        gram.diagonal().sub_(1)
    elif wide:
        gram.diagonal().zero_()
    else:
        norms = matrix.square().sum(dim=1)
    target.addmm_(*((gram, matrix) if wide else (matrix, gram)), alpha=scale)
    value = gram.square().sum()
    if norms is not None:
        target.addcmul_(norms[:, None], matrix, value=-scale)
        value = value - norms.square().sum()
    return value
