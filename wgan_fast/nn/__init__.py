"""Layers and parametrizations that keep a critic Lipschitz."""

from __future__ import annotations

from wgan_fast.nn.activations import GroupSort, MaxMin
from wgan_fast.nn.conversion import to_lipschitz
from wgan_fast.nn.folding import fold
from wgan_fast.nn.orthogonal_regularization import add_orthogonal_gradients_
from wgan_fast.nn.spectral_norm import spectral_norm

__all__ = ["GroupSort", "MaxMin", "add_orthogonal_gradients_", "fold", "spectral_norm", "to_lipschitz"]
