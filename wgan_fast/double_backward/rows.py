"""Which calls treat the samples of a batch independently, with parameters where a factor per sample can be applied.

A tensor is *marked* (`SharedPass.mark`) if it depends on the critic's inputs, piecewise linearly, and its rows are in
the order of the samples: the same number of rows per sample. The inputs are; each rule here says when the result of a
call is, given that some of its arguments are. A call without a rule is not marked. Scores that are marked,
and whose sides do not depend on the inputs, have the gradients that `shared_pass` gives them.

A rule takes (shared, call, args, kwargs), where ``call`` makes the call as `exact_shortcut` does. It returns the
result, or NotImplemented for a call that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_fast.double_backward import activations, convolution, entries, linear, pooling
from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.shared_pass import PLAIN_TYPES, SharedPass

Rule: TypeAlias = Callable[[SharedPass, Any, Any, Any], Any]
Condition: TypeAlias = Callable[..., bool]


def _finish(shared: SharedPass, result: Any, rows: int | None = None) -> Any:
    """Mark a result, or each of several, that has ``rows`` rows."""
    for tensor in (result,) if isinstance(result, Tensor) else result:
        if isinstance(tensor, Tensor) and tensor.dim() and (rows is None or len(tensor) == rows):
            shared.mark(tensor)
    return result


def _is_side(value: Any) -> bool:
    """Whether a tensor that is not marked requires grad."""
    return isinstance(value, Tensor) and value.requires_grad


def _enter(shared: SharedPass, side: Tensor, shape: torch.Size) -> Tensor:
    shared.sides.append(side)
    return entries.enter(side, shape, shared)


# ------------------------------------------------------------------------------------------------- one argument


def _unary(condition: Condition, shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    """A call whose first argument is marked, and whose others are constants; it keeps the number of rows."""
    x = args[0] if args else kwargs.get("input")
    if not shared.is_marked(x) or "out" in kwargs:
        return NotImplemented
    rest = args[1:]
    if any(
        isinstance(v, Tensor) and (v.requires_grad or type(v) not in PLAIN_TYPES) for v in (*rest, *kwargs.values())
    ):
        return NotImplemented
    try:
        if not condition(x, *rest, **{key: value for key, value in kwargs.items() if key != "input"}):
            return NotImplemented
    except (TypeError, ValueError):  # invalid arguments, or forms that are not known here
        return NotImplemented
    rows = len(x)
    return _finish(shared, call(*args, **kwargs), rows)


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


def _several(x: Tensor, *dims: Any, **kwargs: Any) -> bool:
    """A call with dimensions as its only arguments, bare or in a sequence."""
    if len(dims) == 1 and not isinstance(dims[0], int):
        (dims,) = dims
    return not kwargs and _later(x, *dims)


def _permuted(x: Tensor, *dims: Any) -> bool:
    if len(dims) == 1 and not isinstance(dims[0], int):
        (dims,) = dims
    return bool(dims[0] % x.dim() == 0)


def _swapped(x: Tensor, first: int, second: int) -> bool:
    return _later(x, first, second)


def _moved(x: Tensor, source: Any, destination: Any) -> bool:
    listed = [(d,) if isinstance(d, int) else d for d in (source, destination)]
    return _later(x, *listed[0], *listed[1])


def _padded(x: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> bool:
    return len(pad) // 2 < x.dim()


def _repeated(x: Tensor, *sizes: Any) -> bool:
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        (sizes,) = sizes
    return len(sizes) == x.dim() and sizes[0] == 1


def _expanded(x: Tensor, *sizes: Any) -> bool:
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        (sizes,) = sizes
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


def _reshaped(shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    """Another shape in the same order of values: sample b remains block b, if the rows still divide into samples."""
    x = args[0] if args else kwargs.get("input")
    if not shared.is_marked(x):
        return NotImplemented
    result = call(*args, **kwargs)
    fits = result.dim() > 0 and len(result) % shared.batch == 0 and len(result) > 0
    if fits and result.dtype == x.dtype and result.numel() == x.numel():
        shared.mark(result)
    return result


def _converted(shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    """Another type, device or layout in memory."""
    if not args or not shared.is_marked(args[0]):
        return NotImplemented
    result = call(*args, **kwargs)
    if isinstance(result, Tensor) and result.is_floating_point() and result.shape == args[0].shape:
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


def _merged(first: int, in_place: bool, shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    """Sums, differences, the larger, the smaller, a choice: piecewise linear in all operands, from ``first`` on."""
    operands = args[first : first + 2]
    if len(operands) != 2 or kwargs.keys() - {"alpha"} or len(args) > first + 2:
        return NotImplemented
    if not any(shared.is_marked(operand) for operand in operands):
        return NotImplemented
    shape = torch.broadcast_shapes(*(v.shape for v in args if isinstance(v, Tensor)))
    if not _aligned(shared, operands, shape) or (in_place and not shared.is_marked(operands[0])):
        return NotImplemented
    sides = [_is_side(operand) and not shared.is_marked(operand) for operand in operands]
    if any(sides):
        if not plain_autograd():
            return NotImplemented
        operands = [_enter(shared, v, shape) if side else v for v, side in zip(operands, sides, strict=True)]
    return _finish(shared, call(*args[:first], *operands, **kwargs), shape[0])


def _extremum(shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    """``max`` and ``min``, of two tensors or over a dimension."""
    if len(args) == 2 and isinstance(args[1], Tensor):
        return _merged(0, False, shared, call, args, kwargs)
    return _unary(_over(None, 0), shared, call, args, kwargs)


def _scaled(divide: bool, in_place: bool, shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    """A product or quotient with what does not depend on the inputs."""
    if len(args) != 2 or kwargs:
        return NotImplemented
    x, scale = args
    if not shared.is_marked(x):
        if divide or in_place:
            return NotImplemented
        x, scale = scale, x
    if not shared.is_marked(x) or shared.is_marked(scale):
        return NotImplemented
    if isinstance(scale, Tensor):
        shape = torch.broadcast_shapes(x.shape, scale.shape)
        if not _aligned(shared, args, shape):
            return NotImplemented
        if scale.requires_grad:
            if in_place or scale.device != x.device or not plain_autograd():
                return NotImplemented
            shared.sides.append(scale)
            dtype = torch.result_type(x, scale)
            x, scale = x.to(dtype), scale.to(dtype)
            return _finish(shared, entries.scale(x, scale.reciprocal() if divide else scale, shared))
    return _finish(shared, call(*args))


def _joined(new_dim: bool, shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    """``cat`` and ``stack`` along another dimension than the first."""
    tensors = args[0] if args else kwargs.get("tensors")
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if not isinstance(tensors, (tuple, list)) or "out" in kwargs or type(dim) is not int:
        return NotImplemented
    marked = [tensor for tensor in tensors if shared.is_marked(tensor)]
    if not marked or dim % (marked[0].dim() + new_dim) == 0:
        return NotImplemented
    if any(type(t) not in PLAIN_TYPES or t.dim() != marked[0].dim() or len(t) != len(marked[0]) for t in tensors):
        return NotImplemented
    if any(_is_side(t) and not shared.is_marked(t) for t in tensors) and not plain_autograd():
        return NotImplemented
    tensors = [_enter(shared, t, t.shape) if _is_side(t) and not shared.is_marked(t) else t for t in tensors]
    return _finish(shared, call(tensors, dim))


# ------------------------------------------------------------------------------------------------- weights


def _linear(shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    return _multiplied(shared, *_arguments(args, kwargs, "input", "weight", "bias"))


def _arguments(args: Any, kwargs: Any, *names: str) -> tuple[Any, ...]:
    return tuple(args[i] if len(args) > i else kwargs.get(name) for i, name in enumerate(names))


def _multiplied(shared: SharedPass, input: Any, weight: Any, bias: Any = None) -> Any:
    parameters = [p for p in (weight, bias) if p is not None]
    if not shared.is_marked(input) or any(shared.is_marked(p) for p in parameters) or not plain_autograd():
        return NotImplemented
    given = linear.arguments(input, weight, bias)
    if given is NotImplemented:
        return NotImplemented
    input, weight, bias = given
    shared.sides += [p for p in parameters if p.requires_grad]
    return _finish(shared, linear.linear(input, weight, bias, shared))


def _matmul(shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    """A product with a matrix, a vector, or a batch of matrices that are constant."""
    if len(args) != 2 or kwargs:
        return NotImplemented
    a, b = args
    if shared.is_marked(a) == shared.is_marked(b) or not all(type(v) in PLAIN_TYPES for v in args):
        return NotImplemented
    if shared.is_marked(a) and b.dim() == 2:
        return _multiplied(shared, a, b.t())
    if shared.is_marked(a) and b.dim() == 1:
        column = _multiplied(shared, a, b.unsqueeze(0))
        return column if column is NotImplemented else _finish(shared, column.squeeze(-1))
    x, constant = (a, b) if shared.is_marked(a) else (b, a)
    if constant.requires_grad or x.dim() < 3 or constant.dim() > x.dim():
        return NotImplemented
    return _finish(shared, call(a, b), len(x))


def _addmm(shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    if len(args) != 3 or kwargs or not isinstance(args[0], Tensor) or not isinstance(args[2], Tensor):
        return NotImplemented
    bias, x, weight = args
    if not shared.is_marked(x) or weight.dim() != 2 or bias.shape not in ((weight.shape[1],), (1, weight.shape[1])):
        return NotImplemented
    return _multiplied(shared, x, weight.t(), bias.reshape(-1))


def _convolved(convolve: Any, shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    input, weight, bias = _arguments(args, kwargs, "input", "weight", "bias")
    parameters = [weight] if bias is None else [weight, bias]
    if not shared.is_marked(input) or any(type(p) not in PLAIN_TYPES or shared.is_marked(p) for p in parameters):
        return NotImplemented
    if not plain_autograd():
        return NotImplemented
    result = convolve(*args, **kwargs, shared=shared)
    if result is NotImplemented:
        return result
    shared.sides += [p for p in parameters if p.requires_grad]
    return _finish(shared, result)


def _prelu(shared: SharedPass, call: Any, args: Any, kwargs: Any) -> Any:
    if len(args) != 2 or kwargs or not shared.is_marked(args[0]) or shared.is_marked(args[1]):
        return NotImplemented
    x, weight = args
    if not weight.requires_grad:
        return _unary(_always, shared, call, args, kwargs)
    if type(weight) not in PLAIN_TYPES or weight.dtype != x.dtype or weight.dim() > 1 or x.dim() < 2:
        return NotImplemented
    if weight.numel() not in (1, x.shape[1]) or torch.is_autocast_enabled(x.device.type) or not plain_autograd():
        return NotImplemented
    shared.sides.append(weight)
    if weight.dim() == 1:
        weight = weight.view(1, -1, *[1] * (x.dim() - 2))
    return _finish(shared, entries.prelu(x, weight, shared))


# ------------------------------------------------------------------------------------------------- the table

T: Any = Tensor


def _table(condition: Condition, *functions: Any) -> dict[Any, Rule]:
    return {function: partial(_unary, condition) for function in functions}


RULES: dict[Any, Rule] = {
    **_table(_always, *(f for f in activations.REPLACEMENTS | pooling.REPLACEMENTS if f is not F.pad)),
    **_table(_always, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
    **_table(_always, torch.dropout, torch.neg, T.neg, T.__neg__, torch.positive, T.positive),
    **_table(_same_rank, torch.clamp, T.clamp, torch.clip, T.clip, T.clamp_, torch.clamp_min, T.clamp_min),
    **_table(_same_rank, torch.clamp_max, T.clamp_max, T.clamp_min_, T.clamp_max_),
    **_table(_at_least(3), F.interpolate),
    **_table(_at_least(4), F.pixel_shuffle, torch.pixel_shuffle, F.pixel_unshuffle, torch.pixel_unshuffle, F.unfold),
    **_table(_at_least(3), F.fold, T.mT.__get__),
    **_table(_padded, F.pad),
    **_table(_over(None, 0), torch.sum, T.sum, torch.mean, T.mean, torch.amax, T.amax, torch.amin, T.amin),
    **_table(_over(None, 0), torch.cumsum, T.cumsum, torch.median, T.median),
    **_table(_over(-1, 0), torch.sort, T.sort),
    **_table(_over(-1, 1), torch.topk, T.topk, torch.kthvalue, T.kthvalue),
    **_table(_over(0, 1), torch.chunk, T.chunk, torch.split, T.split, torch.tensor_split, T.tensor_split),
    **_table(_over(0, 0), torch.unbind, T.unbind),
    **_table(_over(None, 0), torch.narrow, T.narrow, torch.select, T.select, T.unfold),
    **_table(_over(None, 0), torch.index_select, T.index_select, torch.gather, T.gather),
    **_table(_over(None, 1), torch.roll, T.roll, torch.repeat_interleave, T.repeat_interleave),
    **_table(_several, torch.flip, T.flip),
    **_table(_permuted, torch.permute, T.permute),
    **_table(_swapped, torch.transpose, T.transpose, torch.swapaxes, T.swapaxes, torch.swapdims, T.swapdims),
    **_table(_moved, torch.movedim, T.movedim, torch.moveaxis, T.moveaxis),
    **_table(_repeated, T.repeat, T.tile, torch.tile),
    **_table(_expanded, T.expand),
    **_table(_indexed, T.__getitem__),
    **dict.fromkeys(
        (T.view, T.reshape, torch.reshape, T.flatten, torch.flatten, T.unflatten, torch.unflatten), _reshaped
    ),
    **dict.fromkeys((T.squeeze, torch.squeeze, T.unsqueeze, torch.unsqueeze, T.view_as, T.reshape_as), _reshaped),
    **dict.fromkeys((T.to, T.type, T.type_as, T.float, T.double, T.half, T.bfloat16, T.cpu, T.cuda), _converted),
    **dict.fromkeys((T.contiguous, T.clone, torch.clone), _converted),
    **dict.fromkeys(
        (T.add, torch.add, T.sub, torch.sub, torch.subtract, T.subtract, torch.rsub), partial(_merged, 0, False)
    ),
    **dict.fromkeys((T.__add__, T.__radd__, T.__sub__, T.__rsub__), partial(_merged, 0, False)),
    **dict.fromkeys((torch.maximum, T.maximum, torch.minimum, T.minimum), partial(_merged, 0, False)),
    **dict.fromkeys((T.add_, T.sub_, T.__iadd__, T.__isub__), partial(_merged, 0, True)),
    **dict.fromkeys((torch.max, T.max, torch.min, T.min), _extremum),
    torch.where: partial(_merged, 1, False),
    **dict.fromkeys(
        (T.mul, torch.mul, torch.multiply, T.multiply, T.__mul__, T.__rmul__), partial(_scaled, False, False)
    ),
    **dict.fromkeys((T.mul_, T.__imul__), partial(_scaled, False, True)),
    **dict.fromkeys(
        (T.div, torch.div, torch.divide, T.divide, torch.true_divide, T.true_divide, T.__truediv__),
        partial(_scaled, True, False),
    ),
    **dict.fromkeys((T.div_, T.__itruediv__), partial(_scaled, True, True)),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), partial(_joined, False)),
    torch.stack: partial(_joined, True),
    F.linear: _linear,
    **dict.fromkeys((torch.matmul, T.matmul, T.__matmul__, torch.mm, T.mm, torch.bmm, T.bmm), _matmul),
    **dict.fromkeys((torch.addmm,), _addmm),
    **{function: partial(_convolved, convolve) for function, convolve in convolution.REPLACEMENTS.items()},
    **dict.fromkeys((F.prelu, T.prelu), _prelu),
}
"""What is known of each function."""
