"""From a plain critic to one that is 1-Lipschitz by construction."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.modules.conv import _ConvNd

from wgan_fast.nn.activations import GroupSort, MaxMin
from wgan_fast.nn.orthonormal import orthonormal, patches_of_one_value
from wgan_fast.nn.pooling import ScaledAvgPool2d
from wgan_fast.nn.residual import LipschitzResidual

ACTIVATIONS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Softplus,
    nn.Tanh,
)
"""Replaced by MaxMin: they shrink gradients, so the critic could not reach slope 1."""

KEPT = (nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelUnshuffle, nn.PixelShuffle, nn.ZeroPad2d, MaxMin, GroupSort)
"""Permutations and rearrangements of their input, with zeros at most."""


def to_lipschitz(critic: nn.Module) -> nn.Module:
    """A 1-Lipschitz critic of the same architecture; ``critic`` stays as it is.

    Linear and convolution layers become `orthonormal`, activations `MaxMin`, average pooling `ScaledAvgPool2d`.
    Max pooling whose windows do not overlap is 1-Lipschitz as it is, and so are rearrangements. Then

        |D(x) - D(y)| <= ‖x - y‖₂   for all x, y and all parameters,

    which is the constraint of the dual of W1, so E[D(real)] - E[D(fake)] is never above it: Anil, Lucas & Grosse 2019
    (Sorting Out Lipschitz Function Approximation). `fold` makes plain layers of the result.

    Args:
        critic: a layer of the above, or an ``nn.Sequential`` or `LipschitzResidual` of them, nested to any depth.

    Raises:
        ValueError: a layer without a certified form; the message names it.
    """
    return _converted("", critic, {})


def _converted(name: str, module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """``done`` keeps what is shared shared: one activation, or one layer, in several places."""
    if module not in done:
        done[module] = _convert(name, module, done)
    return done[module]


def _convert(name: str, module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    def child(key: str) -> nn.Module:
        return _converted(f"{name}.{key}" if name else key, module.get_submodule(key), done)

    if type(module) is nn.Sequential:
        return nn.Sequential(*[child(key) for key in module._modules])
    if type(module) is LipschitzResidual:
        return LipschitzResidual(child("branch"), child("shortcut"), module.logit.sigmoid().item())
    if type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d):
        assert isinstance(module, (nn.Linear, _ConvNd))
        try:
            return orthonormal(copy.deepcopy(module))
        except ValueError as error:
            raise ValueError(f"{name or 'critic'}: {error}") from error
    if isinstance(module, ACTIVATIONS):
        return MaxMin()
    if type(module) in KEPT:
        return copy.deepcopy(module)
    if isinstance(module, nn.AvgPool2d) and not module.padding and not module.ceil_mode:
        return ScaledAvgPool2d(module.kernel_size, module.stride)
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return ScaledAvgPool2d()
    if isinstance(module, nn.MaxPool2d) and _overlap(module) == 1:
        return copy.deepcopy(module)
    raise ValueError(
        f"{name or 'critic'}: {type(module).__name__} has no certified 1-Lipschitz form; expected Linear, Conv, an "
        "activation, AvgPool2d, MaxPool2d without overlap, Flatten, or a Sequential of them"
    )


def _overlap(pool: nn.MaxPool2d) -> int:
    kernel_size, stride, dilation = (
        (value, value) if isinstance(value, int) else value for value in (pool.kernel_size, pool.stride, pool.dilation)
    )
    return patches_of_one_value(kernel_size, stride, dilation)
