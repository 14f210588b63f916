"""Layers and parametrizations that keep a critic Lipschitz: spectral norm, orthonormal layers, MaxMin, and so on."""

from __future__ import annotations

from wgan_fast.nn.activations import GroupSort, MaxMin
from wgan_fast.nn.conversion import to_lipschitz
from wgan_fast.nn.folding import fold
from wgan_fast.nn.orthogonal_regularization import add_orthogonal_gradients_
from wgan_fast.nn.orthonormal import orthonormal
from wgan_fast.nn.pooling import ScaledAvgPool2d
from wgan_fast.nn.residual import LipschitzResidual
from wgan_fast.nn.spectral_norm import spectral_norm

__all__ = [
    "GroupSort",
    "LipschitzResidual",
    "MaxMin",
    "ScaledAvgPool2d",
    "add_orthogonal_gradients_",
    "fold",
    "orthonormal",
    "spectral_norm",
    "to_lipschitz",
]
