"""Which memory an operation may touch: the tensors it was given and those it has made since."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from checked_memory import Allocation
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MARGIN = 1 << 14  # unused bytes on both sides of what torch.empty returns
_EMPTY = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
}
_active: list[OperationMemory] = []


def allocation(name: str, tensor: Tensor) -> Allocation:
    """The bytes from the first element to the last."""
    elements = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return Allocation(name, tensor.data_ptr(), elements * tensor.element_size() if tensor.numel() else 0)


def apart(values: Tensor, margin: int = MARGIN) -> Tensor:
    """A copy with the same strides, with no tensor next to it in memory."""
    side = margin // values.element_size()
    span = allocation("", values).size // values.element_size()
    buffer = torch.empty(span + 2 * side, dtype=values.dtype)
    return buffer.as_strided(values.shape, values.stride(), side).copy_(values)


class OperationMemory(TorchDispatchMode):
    """Records every tensor that is made while an operation runs; fresh memory is NaN, with margins around it."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.tensors = [(name, tensor) for key, value in arguments.items() for name, tensor in _tensors_in(key, value)]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled under it; for a yes torch imports Dynamo, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _EMPTY and result.is_floating_point() and result.numel():
            result = _poisoned(result)
        self.tensors += _tensors_in(f"the result of {func.overloadpacket.__name__}", result)
        return result

    def __enter__(self) -> OperationMemory:
        _active.append(self)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        _active.pop()


def _poisoned(like: Tensor) -> Tensor:
    side = MARGIN // like.element_size()
    buffer = torch.empty(allocation("", like).size // like.element_size() + 2 * side, dtype=like.dtype)
    return buffer.as_strided(like.shape, like.stride(), side).fill_(torch.nan)


def _tensors_in(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, each in enumerate(value):
            yield from _tensors_in(f"{name}[{i}]", each)


def allocations_now() -> list[Allocation]:
    """Of the operation that is running."""
    return [allocation(name, tensor) for name, tensor in (_active[-1].tensors if _active else ())]


def recorded(launcher: Callable[..., Any]) -> Callable[..., Any]:
    """A launcher of a backend, run under its OperationMemory."""
    signature = inspect.signature(launcher)

    @functools.wraps(launcher)
    def run(*arguments: Any, **options: Any) -> Any:
        bound = signature.bind(*arguments, **options)
        with OperationMemory(bound.arguments):
            return launcher(*arguments, **options)

    return run


def recorded_backend(name: str, launchers: ModuleType) -> ModuleType:
    """A backend for CPU tensors: the launchers of another one, recorded."""
    module = ModuleType(name)
    module.DEVICE_TYPES = ("cpu",)  # type: ignore[attr-defined]
    for each, launcher in inspect.getmembers(launchers, inspect.isfunction):
        if not each.startswith("_"):
            setattr(module, each, recorded(launcher))
    return module
