"""What a critic's modules mean for a penalty, and its scores. Modules are asked at every step, their classes once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

_COMPILED = (
    "critic: what torch.compile made has no double backward; pass the critic as it was before compilation "
    "(compiled._orig_mod), or compile the whole critic step with this penalty in it; method='difference' "
    "needs no double backward"
)

_SHARDED = (
    "critic: a module sharded by fully_shard (FSDP2) has no double backward; method='difference' needs none, for "
    "critics without kinks"
)


def submodules(critic: nn.Module) -> list[nn.Module]:
    """The critic and all modules inside, one that is used in several places as often: faster than ``modules()``."""
    found = [critic]
    for module in found:
        if module._modules:
            found += [child for child in module._modules.values() if child is not None]
    return found


def first_output(scores: Any) -> Tensor:
    """The scores in what a critic returns: the tensor itself, or the first entry of a tuple, list or dict."""
    while not isinstance(scores, Tensor):
        if isinstance(scores, Mapping) and scores:
            scores = next(iter(scores.values()))
        elif isinstance(scores, Sequence) and scores and not isinstance(scores, str):
            scores = scores[0]
        else:
            raise TypeError(f"critic: expected scores as a tensor (or first in a tuple or dict), got {type(scores)}")
    return scores


def check_critic(critic: Callable[..., Any], critic_args: Sequence[Any] = ()) -> None:
    """Refuse what has no gradient, or none that can be differentiated again where that is needed; warn of BatchNorm."""
    if torch.compiler.is_compiling():
        return
    if not isinstance(critic_args, Sequence):  # a tensor would be unpacked into its rows
        raise TypeError(f"critic_args: expected a tuple or list of arguments, got {type(critic_args).__name__}")
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "critic: torch.inference_mode() has no gradients at all; expected torch.no_grad() for the value alone"
        )
    if not callable(critic):
        raise TypeError(f"critic: expected a module or a function, got {type(critic).__name__}")
    twice = torch.is_grad_enabled()
    if not isinstance(critic, nn.Module):
        if twice and hasattr(critic, "_torchdynamo_orig_callable"):
            raise RuntimeError(_COMPILED)
        return
    for module in submodules(critic):
        hashable: Any = type(module)  # which torch's types do not say
        kind = _kind(hashable)
        if kind is None and module._compiled_call_impl is None:
            continue  # nearly all of them
        if twice and (kind == "compiled" or module._compiled_call_impl is not None):
            raise RuntimeError(_COMPILED)
        if twice and kind == "sharded":
            raise RuntimeError(_SHARDED)
        if kind == "batch norm" and module.training:
            warnings.warn(
                "critic: BatchNorm couples the samples of a batch, but the gradient penalty is defined per sample; "
                "LayerNorm, InstanceNorm or no normalisation is what WGAN-GP expects (Gulrajani et al. 2017, sec. 4)",
                stacklevel=3,
            )


@cache
def _kind(module: type[nn.Module]) -> Literal["compiled", "sharded", "batch norm"] | None:
    # By name: importing torch._dynamo for the class would take a second.
    if module.__name__ == "OptimizedModule":
        return "compiled"
    if any(base.__name__ == "FSDPModule" for base in module.__mro__):
        return "sharded"
    return "batch norm" if issubclass(module, nn.modules.batchnorm._BatchNorm) else None
