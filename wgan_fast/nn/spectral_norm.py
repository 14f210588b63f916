"""Spectral normalisation of all layers of a critic."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import parametrizations

from wgan_fast.nn.matrices import matrix_layers

Convolution = Literal["matrix", "operator"]


def spectral_norm(
    critic: nn.Module, *, convolution: Convolution = "matrix", example: Tensor | None = None
) -> nn.Module:
    """Divide every weight matrix of ``critic`` by its largest singular value, found by power iteration.

    Miyato et al. 2018 (Spectral Normalization for Generative Adversarial Networks), algorithm 1.
    """
    if convolution == "operator":
        raise ValueError("convolution='operator' is not there yet: expected 'matrix'")
    layers = list(matrix_layers(critic))
    if not layers:
        raise ValueError("critic: expected linear or convolution layers to normalise, found none")
    for _, layer in layers:
        parametrizations.spectral_norm(layer)
    return critic
