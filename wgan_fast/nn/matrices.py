"""The layers that hold a weight matrix, and kernels reshaped to one: a row per output."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

MatrixLayer = nn.Linear | _ConvNd


def matrix_layers(module: nn.Module) -> Iterator[tuple[str, MatrixLayer]]:
    """Names and modules of all linear and (transposed) convolution layers, each once, in the module's order."""
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, _ConvNd)):
            yield name, layer


def outputs_dim(layer: nn.Module) -> int:
    """The dimension of ``layer.weight`` that counts outputs."""
    return 1 if isinstance(layer, _ConvTransposeNd) else 0


def as_matrix(weight: Tensor, outputs: int) -> Tensor:
    """``weight`` as ``(outputs, inputs of one output)``; a view if ``outputs`` is 0.

    A kernel (out, in, h, w) becomes (out, in * h * w), a transposed one (in, out, h, w) becomes
    (out, in * h * w): Miyato et al. 2018, section 2.1, and torch.nn.utils.parametrizations.spectral_norm.
    """
    return weight.transpose(0, outputs).flatten(1)


def from_matrix(matrix: Tensor, shape: tuple[int, ...], outputs: int) -> Tensor:
    """The inverse of `as_matrix`: ``matrix`` in the shape of the weight."""
    swapped = list(shape)
    swapped[0], swapped[outputs] = shape[outputs], shape[0]
    return matrix.view(swapped).transpose(0, outputs)
