"""The smooth activations, whose second derivative is not zero: the double backward as one kernel.

Eager PyTorch differentiates an activation's backward, dx = g f(s) with s what the forward pass saved, by a chain of
elementwise operations, and writes even the backward itself as such a chain where its graph is kept (silu, mish). Here
the backward is ATen's own kernel, and its derivatives v f(s) and v g f'(s) are ``activation_double_backward``, one
pass over memory. Derivatives beyond that are autograd's, of the reference's formulas. What is saved is what eager
saves: the input, or the output of tanh, sigmoid and an in-place elu.

A replacement takes the arguments of the function that it replaces, and returns NotImplemented for a call that it
leaves to autograd.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from wgan_fast import ops
from wgan_fast.double_backward.zero_gradients import wanted
from wgan_fast.dtypes import DTYPES

aten: Any = torch.ops.aten


class Rule(NamedTuple):
    """An activation as ``activation_double_backward`` knows it, and its backward: (grad, saved) -> grad f(saved)."""

    activation: str
    options: tuple[float, ...]
    backward: Callable[[Tensor, Tensor], Tensor]


class _Smooth(Function):
    """y = forward(x). Saved is the source where one is given (a copy of an x that changes in place), else x or y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor | None, forward: Callable[[Tensor], Tensor], rule: Rule) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.of_source = rule, source is not None
        y = forward(x)
        if y is x:
            ctx.mark_dirty(x)
        ctx.save_for_backward(source if source is not None else y if rule.activation.endswith("_result") else x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None, None
        (saved,) = ctx.saved_tensors
        rule = ctx.rule
        result = _smooth_backward(grad, saved, rule) if torch.is_grad_enabled() else rule.backward(grad, saved)
        return (None, result, None, None) if ctx.of_source else (result, None, None, None)


class _SmoothBackward(Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, saved: Tensor, rule: Rule) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.rule = rule
        ctx.save_for_backward(grad, saved)
        return rule.backward(grad, saved)

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> Any:
        if v is None:
            return None, None, None
        grad, saved = ctx.saved_tensors
        to_grad, to_saved = (wanted(node) for node, _ in ctx.next_functions)
        # Where a graph is kept, the formulas of the reference, which autograd differentiates to any order.
        backend = "reference" if torch.is_grad_enabled() else "auto"
        rule = ctx.rule
        needed = (to_grad, to_saved)
        return *ops.activation_double_backward(saved, grad, v, rule.activation, rule.options, needed, backend), None


_smooth: Callable[[Tensor, Tensor | None, Callable[[Tensor], Tensor], Rule], Tensor] = _Smooth.apply
_smooth_backward: Callable[[Tensor, Tensor, Rule], Tensor] = _SmoothBackward.apply


def _first_order(activation: str, grad: Tensor, saved: Tensor) -> Tensor:
    """grad f(saved) by the kernel of the double backward: where ATen has none, or one that needs a saved buffer."""
    result = ops.activation_double_backward(saved, None, grad, activation, (), (True, False), "auto")[0]
    assert result is not None
    return result


class Form(NamedTuple):
    """A call of an activation: its rule, what computes it, and what does so in place, if the call is in place."""

    rule: Rule
    forward: Callable[[Tensor], Tensor]
    in_place: Callable[[Tensor], Tensor] | None = None


def _replaced(form_of: Callable[..., Any], /, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    form = form_of(input, *args, **kwargs)
    if form is NotImplemented or input.dtype not in DTYPES:
        return NotImplemented
    rule, forward, in_place = form
    if in_place is not None:
        if input.is_leaf:
            return NotImplemented  # an error, which eager raises
        if rule.activation.endswith("_result"):
            return _smooth(input, None, in_place, rule)
        # An input that is a view has no gradient then, which autograd does not put into that of the base.
        return NotImplemented if input._is_view() else _smooth(input, input.clone(), in_place, rule)
    if torch.is_autocast_enabled(input.device.type):
        # Whether this function is one of those that autocast converts the input of depends on device and version.
        input = input.to(forward(input.detach().flatten()[:0]).dtype)
    return _smooth(input, None, forward, rule)


def _plain(
    rule: Rule,
    forward: Callable[[Tensor], Tensor],
    in_place: Callable[[Tensor], Tensor] | None,
    input: Tensor,
    inplace: bool = False,
) -> Any:
    """An activation without options; ``in_place`` is its form in place, if there is one."""
    if inplace and in_place is None:
        return NotImplemented  # an error, which eager raises
    return Form(rule, forward, in_place if inplace else None)


_GELU = {
    "none": Rule("gelu", (), aten.gelu_backward.default),
    "tanh": Rule("gelu_tanh", (), partial(aten.gelu_backward.default, approximate="tanh")),
}


def _gelu(input: Tensor, *, approximate: str = "none") -> Any:
    rule = _GELU.get(approximate)
    return NotImplemented if rule is None else Form(rule, partial(F.gelu, approximate=approximate))


def _softplus(input: Tensor, beta: float = 1, threshold: float = 20) -> Any:
    rule = Rule("softplus", (beta, threshold), lambda g, s: aten.softplus_backward.default(g, s, beta, threshold))
    return Form(rule, lambda x: F.softplus(x, beta, threshold))


def _elu_rule(alpha: float, scale: float, input_scale: float, inplace: bool) -> Rule:
    options = (alpha, scale, input_scale)
    name = "elu_result" if inplace else "elu"
    return Rule(name, options, lambda g, s: aten.elu_backward.default(g, *options, inplace, s))


def _elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Any:
    if inplace and alpha < 0:
        return NotImplemented  # the output does not tell the input then
    in_place = (lambda x: aten.elu_.default(x, alpha)) if inplace else None
    return Form(_elu_rule(alpha, 1.0, 1.0, inplace), lambda x: F.elu(x, alpha), in_place)


def _celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Any:
    if alpha == 0 or (inplace and alpha < 0):
        return NotImplemented
    # torch's own derivative divides by alpha rounded to fp32, in every dtype.
    rule = _elu_rule(alpha, 1.0, 1 / struct.unpack("f", struct.pack("f", alpha))[0], inplace)
    in_place = (lambda x: torch.celu_(x, alpha)) if inplace else None
    return Form(rule, lambda x: torch.celu(x, alpha), in_place)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _selu(input: Tensor, inplace: bool = False) -> Any:
    rule = _elu_rule(_SELU_ALPHA, _SELU_SCALE, 1.0, inplace)
    return Form(rule, torch.selu, torch.selu_ if inplace else None)


_silu = partial(_plain, Rule("silu", (), aten.silu_backward.default), F.silu, aten.silu_.default)
_mish = partial(_plain, Rule("mish", (), aten.mish_backward.default), F.mish, aten.mish_.default)
_hardswish = partial(
    _plain, Rule("hardswish", (), aten.hardswish_backward.default), F.hardswish, aten.hardswish_.default
)
_tanh = partial(_plain, Rule("tanh_result", (), aten.tanh_backward.default), torch.tanh, torch.tanh_)
_sigmoid = partial(_plain, Rule("sigmoid_result", (), aten.sigmoid_backward.default), torch.sigmoid, torch.sigmoid_)
_softsign = partial(_plain, Rule("softsign", (), partial(_first_order, "softsign")), F.softsign, None)
_logsigmoid = partial(_plain, Rule("logsigmoid", (), partial(_first_order, "logsigmoid")), F.logsigmoid, None)

FORMS: dict[Any, Callable[..., Any]] = {
    F.silu: _silu,
    F.gelu: _gelu,
    F.elu: _elu,
    F.elu_: partial(_elu, inplace=True),
    F.celu: _celu,
    torch.celu: _celu,
    torch.celu_: partial(_celu, inplace=True),
    F.selu: _selu,
    torch.selu: _selu,
    torch.selu_: partial(_selu, inplace=True),
    F.softplus: _softplus,
    torch.tanh: _tanh,
    Tensor.tanh: _tanh,
    torch.tanh_: partial(_tanh, inplace=True),
    Tensor.tanh_: partial(_tanh, inplace=True),
    torch.sigmoid: _sigmoid,
    torch.special.expit: _sigmoid,
    Tensor.sigmoid: _sigmoid,
    torch.sigmoid_: partial(_sigmoid, inplace=True),
    Tensor.sigmoid_: partial(_sigmoid, inplace=True),
    F.mish: _mish,
    F.hardswish: _hardswish,
    F.softsign: _softsign,
    F.logsigmoid: _logsigmoid,
}
"""From the arguments of each function to the `Form` of its call, or NotImplemented."""

REPLACEMENTS: dict[Any, Callable[..., Any]] = {function: partial(_replaced, form) for function, form in FORMS.items()}
