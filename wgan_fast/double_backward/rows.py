"""Which calls treat the samples of a batch independently, with parameters where a factor per sample can be applied.

A tensor is *marked* (`SharedPass.mark`) if it depends on the critic's inputs, piecewise linearly, and its rows are in
the order of the samples: the same number of rows per sample. The inputs are; each rule here says when the result of a
call is, given that some of its arguments are. A call without a rule is not marked. Scores that are marked,
and whose sides do not depend on the inputs, have the gradients that `shared_pass` gives them.

A rule takes the shared pass, ``call``, which makes the call as `exact_shortcut` does, and the call's own arguments. It
returns the result, or NotImplemented for a call that it does not know; a TypeError, for arguments that it does not
take, means the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_fast.double_backward import activations, convolution, entries, linear, pooling
from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.shared_pass import SharedPass
from wgan_fast.dtypes import PLAIN_TYPES

Rule: TypeAlias = Callable[..., Any]
Condition: TypeAlias = Callable[..., bool]


def _finish(shared: SharedPass, result: Any, rows: int | None = None) -> Any:
    """Mark a result, or each of several, that has ``rows`` rows."""
    for tensor in (result,) if isinstance(result, Tensor) else result:
        if isinstance(tensor, Tensor) and tensor.dim() and (rows is None or len(tensor) == rows):
            shared.mark(tensor)
    return result


def _entered(shared: SharedPass, operands: Iterable[Any], shape: torch.Size | None = None) -> list[Any] | None:
    """The operands, each side among them broadcast to ``shape`` by `entries.enter`; None where none may enter."""
    operands = list(operands)
    sides = [isinstance(v, Tensor) and v.requires_grad and not shared.is_marked(v) for v in operands]
    if any(sides) and not plain_autograd():
        return None
    shared.sides += itertools.compress(operands, sides)

    def enter(side: Tensor) -> Tensor:
        return entries.enter(side, side.shape if shape is None else shape, shared)

    return [enter(v) if side else v for v, side in zip(operands, sides, strict=True)]


def _may_enter(shared: SharedPass, *parameters: Any) -> bool:
    """Whether the nodes of `entries` may take these: plain tensors that do not depend on the inputs."""
    return all(type(p) in PLAIN_TYPES and not shared.is_marked(p) for p in parameters) and plain_autograd()


# ------------------------------------------------------------------------------------------------- one argument


def _unary(condition: Condition, shared: SharedPass, call: Any, /, input: Any, *args: Any, **kwargs: Any) -> Any:
    """A call whose first argument is marked, and whose others are constants; it keeps the number of rows."""
    if not shared.is_marked(input) or "out" in kwargs:
        return NotImplemented
    others = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
    if any(v.requires_grad or type(v) not in PLAIN_TYPES for v in others):
        return NotImplemented
    try:
        if not condition(input, *args, **kwargs):
            return NotImplemented
    except (TypeError, ValueError):  # invalid arguments, or forms that are not known here
        return NotImplemented
    rows = len(input)
    return _finish(shared, call(input, *args, **kwargs), rows)


def _always(x: Tensor, *args: Any, **kwargs: Any) -> bool:
    return True


def _same_rank(x: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Bounds may be tensors, which must not add dimensions in front."""
    return all(v.dim() <= x.dim() for v in (*args, *kwargs.values()) if isinstance(v, Tensor))


def _later(x: Tensor, *dims: int) -> bool:
    """Whether dimensions of x are given, none of them the first."""
    return bool(dims) and all(type(d) is int and d % x.dim() != 0 for d in dims)


def _over(default: Any, position: int) -> Condition:
    """A call with a dimension, or several, as argument ``position`` after x."""

    def condition(x: Tensor, *args: Any, **kwargs: Any) -> bool:
        dim = args[position] if len(args) > position else kwargs.get("dim", kwargs.get("dims", default))
        return _later(x, *((dim,) if isinstance(dim, int) else dim or ()))

    return condition


def _listed(dims: Any) -> Any:
    """Numbers given as arguments of their own, or as one sequence."""
    return dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims


def _several(x: Tensor, *dims: Any) -> bool:
    """A call with dimensions as its only arguments."""
    return _later(x, *_listed(dims))


def _permuted(x: Tensor, *dims: Any) -> bool:
    return bool(_listed(dims)[0] % x.dim() == 0)


def _moved(x: Tensor, source: Any, destination: Any) -> bool:
    return _later(x, *_listed([source]), *_listed([destination]))


def _padded(x: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> bool:
    return len(pad) // 2 < x.dim()


def _repeated(x: Tensor, *sizes: Any) -> bool:
    sizes = _listed(sizes)
    return len(sizes) == x.dim() and sizes[0] == 1


def _expanded(x: Tensor, *sizes: Any) -> bool:
    sizes = _listed(sizes)
    return len(sizes) == x.dim() and sizes[0] in (-1, len(x))


def _at_least(rank: int) -> Condition:
    return lambda x, *args, **kwargs: x.dim() >= rank


def _indexed(x: Tensor, index: Any) -> bool:
    """All of the first dimension, and any numbers and slices of the others."""
    index = index if isinstance(index, tuple) else (index,)
    if not index or any(
        not (i is None or i is Ellipsis or isinstance(i, (int, slice))) or isinstance(i, bool) for i in index
    ):
        return False
    if index[0] == slice(None):
        return True
    return index[0] is Ellipsis and sum(i is not None for i in index[1:]) < x.dim()


def _reshaped(shared: SharedPass, call: Any, /, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Another shape in the same order of values: sample b remains block b, if the rows still divide into samples."""
    if not shared.is_marked(input):
        return NotImplemented
    result = call(input, *args, **kwargs)
    fits = result.dim() > 0 and len(result) % shared.batch == 0 and len(result) > 0
    if fits and result.dtype == input.dtype and result.numel() == input.numel():
        shared.mark(result)
    return result


def _converted(shared: SharedPass, call: Any, /, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Another type, device or layout in memory."""
    if not shared.is_marked(input):
        return NotImplemented
    result = call(input, *args, **kwargs)
    if isinstance(result, Tensor) and result.is_floating_point() and result.shape == input.shape:
        shared.mark(result)
    return result


# ------------------------------------------------------------------------------------------------- several arguments


def _aligned(shared: SharedPass, operands: Iterable[Any], shape: torch.Size) -> bool:
    """Whether some operand is marked, those that are have the result's rows, and all are plain tensors or numbers."""
    some = False
    for operand in operands:
        if isinstance(operand, Tensor):
            if type(operand) not in PLAIN_TYPES:
                return False
            if shared.is_marked(operand):
                some = True
                if operand.dim() != len(shape) or operand.shape[0] != shape[0]:
                    return False
    return some


def _merged(first: int, in_place: bool, shared: SharedPass, call: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Sums, differences, the larger, the smaller, a choice: piecewise linear in all operands, from ``first`` on."""
    operands = args[first : first + 2]
    if len(operands) != 2 or kwargs.keys() - {"alpha"} or len(args) > first + 2:
        return NotImplemented
    if not any(shared.is_marked(operand) for operand in operands):
        return NotImplemented
    shape = torch.broadcast_shapes(*(v.shape for v in args if isinstance(v, Tensor)))
    if not _aligned(shared, operands, shape) or (in_place and not shared.is_marked(operands[0])):
        return NotImplemented
    entered = _entered(shared, operands, shape)
    return NotImplemented if entered is None else _finish(shared, call(*args[:first], *entered, **kwargs), shape[0])


def _extremum(shared: SharedPass, call: Any, /, *args: Any, **kwargs: Any) -> Any:
    """``max`` and ``min``, of two tensors or over a dimension."""
    if len(args) == 2 and isinstance(args[1], Tensor):
        return _merged(0, False, shared, call, *args, **kwargs)
    return _unary(_over(None, 0), shared, call, *args, **kwargs)


def _scaled(divide: bool, in_place: bool, shared: SharedPass, call: Any, a: Any, b: Any, /) -> Any:
    """A product or quotient with what does not depend on the inputs."""
    x, scale = (a, b) if divide or in_place or shared.is_marked(a) else (b, a)
    if not shared.is_marked(x) or shared.is_marked(scale):
        return NotImplemented
    if isinstance(scale, Tensor):
        if not _aligned(shared, (x, scale), torch.broadcast_shapes(x.shape, scale.shape)):
            return NotImplemented
        if scale.requires_grad:
            if in_place or scale.device != x.device or not plain_autograd():
                return NotImplemented
            shared.sides.append(scale)
            dtype = torch.result_type(x, scale)
            x, scale = x.to(dtype), scale.to(dtype)
            return _finish(shared, entries.scale(x, scale.reciprocal() if divide else scale, shared))
    return _finish(shared, call(a, b))


def _joined(new_dim: bool, shared: SharedPass, call: Any, /, tensors: Any, dim: Any = 0) -> Any:
    """``cat`` and ``stack`` along another dimension than the first."""
    if not isinstance(tensors, (tuple, list)) or type(dim) is not int:
        return NotImplemented
    marked = [tensor for tensor in tensors if shared.is_marked(tensor)]
    if not marked or dim % (marked[0].dim() + new_dim) == 0:
        return NotImplemented
    if any(type(t) not in PLAIN_TYPES or t.dim() != marked[0].dim() or len(t) != len(marked[0]) for t in tensors):
        return NotImplemented
    entered = _entered(shared, tensors)
    return NotImplemented if entered is None else _finish(shared, call(entered, dim))


# ------------------------------------------------------------------------------------------------- weights


def _linear(shared: SharedPass, call: Any, /, input: Any, weight: Any, bias: Any = None) -> Any:
    parameters = [weight] if bias is None else [weight, bias]
    if not shared.is_marked(input) or not _may_enter(shared, *parameters):
        return NotImplemented
    if (given := linear.arguments(input, weight, bias)) is NotImplemented:
        return NotImplemented
    input, weight, bias = given
    shared.sides += [p for p in parameters if p.requires_grad]
    return _finish(shared, linear.linear(input, weight, bias, shared))


def _matmul(shared: SharedPass, call: Any, a: Any, b: Any, /) -> Any:
    """A product with a matrix, a vector, or a batch of matrices that are constant."""
    if shared.is_marked(a) == shared.is_marked(b) or not all(type(v) in PLAIN_TYPES for v in (a, b)):
        return NotImplemented
    if shared.is_marked(a) and b.dim() == 2:
        return _linear(shared, call, a, b.t())
    if shared.is_marked(a) and b.dim() == 1:
        column = _linear(shared, call, a, b.unsqueeze(0))
        return column if column is NotImplemented else _finish(shared, column.squeeze(-1))
    x, constant = (a, b) if shared.is_marked(a) else (b, a)
    if constant.requires_grad or x.dim() < 3 or constant.dim() > x.dim():
        return NotImplemented
    return _finish(shared, call(a, b), len(x))


def _addmm(shared: SharedPass, call: Any, bias: Any, x: Any, weight: Any, /) -> Any:
    if not shared.is_marked(x) or not isinstance(bias, Tensor) or not isinstance(weight, Tensor):
        return NotImplemented
    if weight.dim() != 2 or bias.shape not in ((weight.shape[1],), (1, weight.shape[1])):
        return NotImplemented
    return _linear(shared, call, x, weight.t(), bias.reshape(-1))


def _convolved(
    convolve: Any,
    shared: SharedPass,
    call: Any,
    /,
    input: Any,
    weight: Any,
    bias: Any = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    parameters = [weight] if bias is None else [weight, bias]
    if not shared.is_marked(input) or not _may_enter(shared, *parameters):
        return NotImplemented
    result = convolve(input, weight, bias, *args, **kwargs, shared=shared)
    if result is NotImplemented:
        return result
    shared.sides += [p for p in parameters if p.requires_grad]
    return _finish(shared, result)


def _prelu(shared: SharedPass, call: Any, x: Any, weight: Any, /) -> Any:
    if not shared.is_marked(x) or shared.is_marked(weight):
        return NotImplemented
    if not weight.requires_grad:
        return _unary(_always, shared, call, x, weight)
    if weight.dtype != x.dtype or weight.dim() > 1 or x.dim() < 2 or weight.numel() not in (1, x.shape[1]):
        return NotImplemented
    if torch.is_autocast_enabled(x.device.type) or not _may_enter(shared, weight):
        return NotImplemented
    shared.sides.append(weight)
    if weight.dim() == 1:
        weight = weight.view(1, -1, *[1] * (x.dim() - 2))
    return _finish(shared, entries.scale(x, weight, shared, kinked=True))


# ------------------------------------------------------------------------------------------------- the table

T: Any = Tensor


def _both(names: str) -> list[Any]:
    """The functions of torch and the methods of tensors that have these names."""
    return [getattr(owner, name) for name in names.split() for owner in (torch, T)]


def _table(condition: Condition, *functions: Any) -> dict[Any, Rule]:
    return dict.fromkeys(functions, partial(_unary, condition))


RULES: dict[Any, Rule] = {
    **_table(_always, *(f for f in activations.REPLACEMENTS | pooling.REPLACEMENTS if f is not F.pad)),
    **_table(_always, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
    **_table(_always, torch.dropout, T.__neg__, *_both("neg positive")),
    **_table(_same_rank, *_both("clamp clip clamp_min clamp_max"), T.clamp_, T.clamp_min_, T.clamp_max_),
    **_table(_at_least(3), F.interpolate, F.fold, T.mT.__get__),
    **_table(_at_least(4), F.pixel_shuffle, torch.pixel_shuffle, F.pixel_unshuffle, torch.pixel_unshuffle, F.unfold),
    **_table(_padded, F.pad),
    **_table(_over(None, 0), *_both("sum mean amax amin cumsum median narrow select index_select gather"), T.unfold),
    **_table(_over(-1, 0), *_both("sort")),
    **_table(_over(-1, 1), *_both("topk kthvalue")),
    **_table(_over(0, 1), *_both("chunk split tensor_split")),
    **_table(_over(0, 0), *_both("unbind")),
    **_table(_over(None, 1), *_both("roll repeat_interleave")),
    **_table(_several, *_both("flip")),
    **_table(_permuted, *_both("permute")),
    **_table(_later, *_both("transpose swapaxes swapdims")),
    **_table(_moved, *_both("movedim moveaxis")),
    **_table(_repeated, T.repeat, *_both("tile")),
    **_table(_expanded, T.expand),
    **_table(_indexed, T.__getitem__),
    **dict.fromkeys(
        [*_both("reshape flatten unflatten squeeze unsqueeze"), T.view, T.view_as, T.reshape_as], _reshaped
    ),
    **dict.fromkeys([T.to, T.type, T.type_as, T.float, T.double, T.half, T.bfloat16, T.cpu, T.cuda], _converted),
    **dict.fromkeys([T.contiguous, *_both("clone")], _converted),
    **dict.fromkeys([*_both("add sub subtract maximum minimum"), torch.rsub], partial(_merged, 0, False)),
    **dict.fromkeys([T.__add__, T.__radd__, T.__sub__, T.__rsub__], partial(_merged, 0, False)),
    **dict.fromkeys([T.add_, T.sub_, T.__iadd__, T.__isub__], partial(_merged, 0, True)),
    torch.where: partial(_merged, 1, False),
    **dict.fromkeys(_both("max min"), _extremum),
    **dict.fromkeys([*_both("mul multiply"), T.__mul__, T.__rmul__], partial(_scaled, False, False)),
    **dict.fromkeys([T.mul_, T.__imul__], partial(_scaled, False, True)),
    **dict.fromkeys([*_both("div divide true_divide"), T.__truediv__], partial(_scaled, True, False)),
    **dict.fromkeys([T.div_, T.__itruediv__], partial(_scaled, True, True)),
    **dict.fromkeys([torch.cat, torch.concat, torch.concatenate], partial(_joined, False)),
    torch.stack: partial(_joined, True),
    F.linear: _linear,
    **dict.fromkeys([*_both("matmul mm bmm"), T.__matmul__], _matmul),
    torch.addmm: _addmm,
    **{function: partial(_convolved, convolve) for function, convolve in convolution.REPLACEMENTS.items()},
    **dict.fromkeys([F.prelu, T.prelu], _prelu),
}
"""What is known of each function."""
