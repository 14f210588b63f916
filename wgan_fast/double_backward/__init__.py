"""The exact shortcut: the double backward of a piecewise-linear critic without its arithmetic on zeros.

For affine layers z_l = W_l a_(l-1) + b_l, activations a_l = m_l ∘ z_l with slopes m_l constant almost
everywhere, and u the slope of the penalty at the input gradient g = W_1ᵀ δ_1, the weight gradient is

    t_0 = u,  t_l = m_l ∘ (W_l t_(l-1)),  ∂P/∂W_l = δ_l ⊗ t_(l-1),  ∂P/∂b_l = 0 :

four units of matrix work with the forward pass, the input gradient δ, the tangent t and the products. Eager
PyTorch does six: it builds the derivatives of the slopes m_l as tensors of zeros, and carries them through a
whole backward pass of the critic. ``exact_shortcut`` leaves those out; the results are the same, bit for bit
where the order of operations is the same.

``piecewise_linear`` has the autograd Function, ``activations`` and ``pooling`` list the calls that it replaces,
``zero_gradients`` gives parameters the zero gradients that eager gives them, ``convolution`` has the weight
gradient in its direct form, ``linear`` the products of linear layers, ``fused_kernels`` the kernels that cannot
be differentiated twice. ``smooth`` has the activations and ``norms`` the norms whose second derivative is not
zero: one kernel computes it, and the only product that can be left out is the gradient at the points
(``penalised_points``).

Where the scores at the penalised samples are part of the loss, their backward pass and the penalty's are one
(``shared_pass`` has the mathematics): ``rows`` lists the calls that treat samples independently, ``entries``,
``linear`` and ``convolution`` have the nodes where parameters enter, ``one_pass`` combines them, ``registered`` takes
third-party operations, and ``report`` explains a critic.

For a critic of known calls alone, both are one node, computed from a record of its forward pass: ``recorded``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wgan_fast.double_backward import activations, convolution, fused_kernels, linear, norms, pooling, smooth
from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.registered import register_piecewise_linear
from wgan_fast.double_backward.report import explain
from wgan_fast.dtypes import PLAIN_TYPES

__all__ = ["exact_shortcut", "explain", "register_piecewise_linear", "twice_differentiable"]


def exact_shortcut(
    *, direct_convolution: bool | None = None, fast_linear: bool = True, fused_second_order: bool = True
) -> AbstractContextManager[Any]:
    """Context manager in which critics have a cheaper double backward with the same derivatives.

    Piecewise-linear activations, poolings and paddings are bit-identical to eager. Smooth activations and norms,
    whose double backward is fused, convolutions' weight gradients on the CPU and on CUDA, and large fp32 linear
    layers on processors where oneDNN is the faster library are equal to rounding; ``fused_second_order=False,
    direct_convolution=False, fast_linear=False`` makes everything bit-identical.

    ``gradient_penalty`` and ``score_and_gradient`` enter this context by themselves. For a penalty of your own, put
    the critic's forward pass inside::

        with exact_shortcut():
            scores = critic(x)
        (g,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        ((g.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()

    Critics need no change: modules, functional calls, in-place activations, hooks, parametrizations and shared
    weights are handled as they run. Two kinds of operations are replaced:

    - the second derivative is zero, and *skipped*: relu, leaky_relu, relu6, hardtanh, threshold, hardshrink,
      softshrink, abs, prelu, rrelu, the max and average poolings, reflection and replication padding;
    - the second derivative is *fused* into one kernel, where autograd runs a chain: silu, gelu, elu, celu, selu,
      softplus, tanh, sigmoid, mish, hardswish, softsign and logsigmoid, for which it is finite for every finite
      input (the chain overflows to NaN for some), and layer_norm, group_norm, rms_norm and instance_norm without
      running statistics.

    Everything else keeps autograd's own second order, and so do all calls inside ``torch.compile``, ``torch.func``
    transforms and forward-mode differentiation, inside saved-tensor hooks (checkpointed segments), on tensor
    subclasses, and everything that follows a ``register_hook`` or ``retain_grad`` within the context.

    Parameters have gradients where they have them in eager: a hidden bias, on which the penalty does not depend,
    gets zeros, not None. Derivatives of any order are correct. Two things differ: eager spreads NaN where it
    multiplies its zeros by an infinite or NaN value, the shortcut does not; and an intermediate tensor (not a leaf)
    that only zeros would reach is unused for ``torch.autograd.grad``.

    Args:
        direct_convolution: whether the weight gradients of convolutions are computed in the direct form in the
            double backward, which is faster and rounds differently, or in ATen's. None: the direct form on the CPU
            and on CUDA.
        fast_linear: whether large fp32 linear layers on a CPU may be multiplied by oneDNN, on processors where
            it is twice as fast as torch's own way; it rounds differently.
        fused_second_order: whether the double backward of smooth activations and norms is one kernel, which
            rounds differently, or autograd's chain of operations.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    replacements = _replacements(direct_convolution is not False, fast_linear, fused_second_order)
    return _DoubleBackward(replacements, direct_convolution is None)


def twice_differentiable() -> AbstractContextManager[Any]:
    """Context manager in which recurrent layers and attention run on kernels that have a double backward.

    cuDNN's recurrent layers and fused attention have none; each is named in one warning when it is first
    avoided. Nothing else changes. ``exact_shortcut`` does this too.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    return _DoubleBackward({}, False)


class _DoubleBackward(TorchFunctionMode):
    def __init__(self, replacements: dict[Any, Callable[..., Any]], direct_by_device: bool) -> None:
        super().__init__()
        self.replacements = replacements
        self.direct_by_device = direct_by_device
        self.observed = False

    def __enter__(self) -> _DoubleBackward:
        self.observed = False
        super().__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        replacement = self.replacements.get(func)
        if replacement is not None and not self.observed and self._serves(func, _first(args, kwargs)):
            try:
                result = replacement(*args, **kwargs)
            except TypeError:  # invalid arguments: eager raises its own error
                result = NotImplemented
            if result is not NotImplemented:
                return result
        elif func in _OBSERVERS:
            # The hook of an observed tensor expects tensors, so operations behind it still return zeros.
            self.observed = True
        elif func in fused_kernels.SUBSTITUTES and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            with fused_kernels.SUBSTITUTES[func](_first(args, kwargs)):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _serves(self, func: Any, x: Any) -> bool:
        """Whether replacing ``func`` makes a difference here, and works with the modes and subclasses in use."""
        return (
            type(x) in PLAIN_TYPES
            and x.requires_grad
            and torch.is_grad_enabled()
            and x.layout == torch.strided
            and x.is_floating_point()
            and not x.is_meta  # a device that autocast does not know
            and not (
                self.direct_by_device
                and func in convolution.REPLACEMENTS
                and x.device.type not in convolution.DIRECT_DEVICES
            )
            and not (func in _CAST_BY_AUTOCAST and torch.is_autocast_enabled(x.device.type))
            and plain_autograd()
        )


def _first(args: Any, kwargs: Any) -> Any:
    return args[0] if args else kwargs.get("input", kwargs.get("query"))


@cache
def _replacements(direct_convolution: bool, fast_linear: bool, fused: bool) -> dict[Any, Callable[..., Any]]:
    return {
        **activations.REPLACEMENTS,
        **pooling.REPLACEMENTS,
        **(convolution.REPLACEMENTS if direct_convolution else {}),
        **(linear.REPLACEMENTS if fast_linear else {}),
        **(smooth.REPLACEMENTS | norms.REPLACEMENTS if fused else {}),
    }


_CAST_BY_AUTOCAST = activations.CAST_BY_AUTOCAST | pooling.CAST_BY_AUTOCAST
_OBSERVERS = frozenset({Tensor.register_hook, Tensor.retain_grad})
