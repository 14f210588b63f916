"""From parametrized layers back to plain ones."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import parametrize

from wgan_fast.nn.spectral_norm import PowerIteration


def fold(critic: nn.Module) -> nn.Module:
    """A copy of ``critic`` whose parametrized weights are plain parameters of the values that they have now.

    Same outputs as ``critic`` in evaluation mode, without the cost of its parametrizations: for export, and for use
    once training is over. The constraint is no longer held if the copy is trained further.
    """
    folded = copy.deepcopy(critic)
    for hooks in (folded._forward_pre_hooks, folded._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), PowerIteration)]:
            del hooks[key]
            folded._forward_hooks_always_called.pop(key, None)
    for module in list(folded.modules()):
        if parametrize.is_parametrized(module):
            _fold_(module)
    return folded


def _fold_(module: nn.Module) -> None:
    """As parametrize.remove_parametrizations, which on a copy would change the class that it shares."""
    assert isinstance(module.parametrizations, nn.ModuleDict)
    values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    others = dict(module._parameters)
    module._parameters.clear()  # the weight goes before the bias, as in a layer that was never parametrized
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))
    module._parameters.update(others)
