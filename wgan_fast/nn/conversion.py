"""From a plain critic to one that is 1-Lipschitz by construction."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrizations

from wgan_fast.nn.activations import GroupSort, MaxMin

REPLACED_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh)
KEPT = (nn.Identity, nn.Flatten, nn.Unflatten, MaxMin, GroupSort)


def to_lipschitz(critic: nn.Module) -> nn.Module:
    """A 1-Lipschitz critic of the architecture of a ``Sequential`` one.

    Raises:
        ValueError: a layer that cannot be certified; the message names it.
    """
    return _converted("critic", critic)


def _converted(name: str, module: nn.Module) -> nn.Module:
    if type(module) is nn.Sequential:
        return nn.Sequential(*[_converted(f"{name}.{child}", layer) for child, layer in module.named_children()])
    if type(module) is nn.Linear:
        return parametrizations.orthogonal(module)
    if type(module) in REPLACED_ACTIVATIONS:
        return MaxMin()
    if type(module) in KEPT:
        return module
    raise ValueError(f"{name}: {type(module).__name__} has no certified 1-Lipschitz form here")
