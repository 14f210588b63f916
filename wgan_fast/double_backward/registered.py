"""Third-party operations that are piecewise linear and treat samples independently."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._pytree import tree_leaves

from wgan_fast.double_backward import entries
from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.rows import RULES
from wgan_fast.double_backward.shared_pass import SharedPass
from wgan_fast.dtypes import PLAIN_TYPES

F = TypeVar("F", bound=Callable[..., Any])


def register_piecewise_linear(function: F, *, bias: str | None = None, bias_dim: int = 1) -> F:
    """Make an operation known to ``score_and_gradient``; call the result in its place.

    For a fused kernel with an autograd Function of its own, which is opaque otherwise::

        ops.bias_act = register_piecewise_linear(ops.bias_act, bias="b")
        ops.upfirdn2d = register_piecewise_linear(ops.upfirdn2d)

    The caller guarantees, unchecked: the result is a piecewise-linear function of the first argument, row b of the
    result depends on row b of that argument alone, and the function can be differentiated twice. Other arguments may
    be tensors that do not require grad. Outside of ``score_and_gradient`` nothing changes.

    Args:
        function: from x, (B, ...), and further arguments to (B, ...).
        bias: the name of a parameter that may require grad, a vector that is added to x along ``bias_dim`` before
            anything else is done. A call may pass None for it.
        bias_dim: the dimension of x.

    Raises:
        ValueError: the function has no parameter of the bias's name, or no signature (a builtin: wrap it in a ``def``).
    """
    signature = inspect.signature(function)
    if bias is not None and bias not in signature.parameters:
        raise ValueError(f"bias={bias!r}: expected the name of a parameter, one of {', '.join(signature.parameters)}")

    @functools.wraps(function)
    def visible(*args: Any, **kwargs: Any) -> Any:
        tensors = tuple(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if has_torch_function(tensors):
            return handle_torch_function(visible, tensors, *args, **kwargs)
        return function(*args, **kwargs)

    def rule(shared: SharedPass, call: Any, /, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        name = next(iter(given))
        x, vector = given[name], given.get(bias) if bias is not None else None
        others = tree_leaves([value for key, value in given.items() if key not in (name, bias)])
        others = [value for value in others if isinstance(value, Tensor)]
        if not shared.is_marked(x) or any(value.requires_grad or type(value) not in PLAIN_TYPES for value in others):
            return NotImplemented
        if bias is not None and isinstance(vector, Tensor) and vector.requires_grad:
            if type(vector) not in PLAIN_TYPES or shared.is_marked(vector) or vector.dim() != 1 or not plain_autograd():
                return NotImplemented
            # Nothing is added, but the gradient there is that of the bias.
            nothing = (vector - vector.detach()).view(-1, *[1] * (x.dim() - 1 - bias_dim % x.dim())).to(x.dtype)
            shared.sides.append(vector)
            given[name] = x + entries.enter(nothing, x.shape, shared)
            given[bias] = vector.detach()
        result = call(*bound.args, **bound.kwargs)
        if isinstance(result, Tensor) and result.dim() and len(result) == len(x):
            shared.mark(result)
        return result

    RULES[visible] = rule
    return visible  # type: ignore[return-value]  # functools.wraps keeps the signature
