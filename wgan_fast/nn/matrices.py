"""The layers that hold a weight matrix, and how a kernel is read as one: a row for each output."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def matrix_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of all linear and (transposed) convolution layers, each once, in the module's order."""
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, _ConvNd)):
            yield name, layer


def as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """``weight`` of ``layer`` as ``(outputs, inputs of one output)``; a view, but for transposed convolutions.

    A kernel (out, in, h, w) becomes (out, in * h * w), a transposed one (in, out, h, w) becomes
    (out, in * h * w): Miyato et al. 2018, section 2.1, and torch.nn.utils.parametrizations.spectral_norm.
    """
    return (weight.transpose(0, 1) if isinstance(layer, _ConvTransposeNd) else weight).flatten(1)


def from_matrix(layer: nn.Module, matrix: Tensor, weight: Tensor) -> Tensor:
    """The inverse of `as_matrix`: ``matrix`` in the shape of ``weight``."""
    if isinstance(layer, _ConvTransposeNd):
        return matrix.view(weight.transpose(0, 1).shape).transpose(0, 1)
    return matrix.view(weight.shape)
