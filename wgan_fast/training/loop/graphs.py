"""A training step recorded once and replayed as one launch: CUDA graphs, and what they require of a step.

A replay repeats the kernels of the recorded call on the same addresses with the same numbers. So inputs are copied
into buffers that stay (`graphed_step`), what a step changes is changed in place, schedules are scalars on the device,
and noise comes from the device's default generator, which capture registers with the graph: it advances with every
replay as it would eagerly. Warm-up steps train, so all their changes are undone (`rewound`).

What records is a `Capture`: `CudaCapture` on a GPU, another in tests without one.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")

WARM_UP_CALLS = 3


class Capture(Protocol):
    """How a function is recorded."""

    def __call__(self, step: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Call ``step`` until it allocates and compiles nothing more, then record it.

        Returns:
            What ``step`` returned, tensors that every replay writes anew, and the replay.

        Raises:
            RuntimeError: the step synchronises with the device, so it cannot be recorded.
        """


class CudaCapture:
    """``torch.cuda.graph`` on a side stream, all graphs in one pool of memory: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream(device)

    def __call__(self, step: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    for left in reversed(range(WARM_UP_CALLS)):
                        # Synchronising inside capture would invalidate the graph and the random generator with it;
                        # here it is an ordinary error. The first calls may: they allocate, compile, try algorithms.
                        with contextlib.nullcontext() if left else _waiting_forbidden():
                            step()
            finally:
                current.wait_stream(self._stream)
                torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # torch.cuda.graph leaves its stream the current one where a capture fails: training goes on, on ours.
            with torch.cuda.stream(current), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                result = step()
        return result, graph.replay


@contextlib.contextmanager
def _waiting_forbidden() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():  # torch warns once per process that the mode is a prototype
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextlib.contextmanager
def rewound(
    tensors: Iterable[Tensor], optimizers: Sequence[torch.optim.Optimizer], generators: Sequence[torch.Generator] = ()
) -> Iterator[None]:
    """Restore at the end, in place, all that a step can change: a graph holds the addresses.

    Args:
        tensors: parameters and buffers.
        optimizers: their states; a state that is made meanwhile was zeros before its first step, and returns to them.
        generators: their states.
    """

    def states() -> list[Tensor]:
        found = (state for optimizer in optimizers for state in optimizer.state.values())
        return [value for state in found for value in state.values() if isinstance(value, Tensor)]

    values = [(t, t.detach().clone()) for t in (*tensors, *states())]
    draws = [(generator, generator.get_state()) for generator in generators]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
            known = {id(tensor) for tensor, _ in values}
            for state in states():
                if id(state) not in known:
                    state.zero_()
        for generator, before in draws:
            generator.set_state(before)


def graphed_step(
    fn: Callable[..., Any], static_inputs: Sequence[Tensor], *, capture: Capture, rewind: AbstractContextManager[None]
) -> Callable[..., Any]:
    """Record a step now, for a function that replays it::

        step = graphed_step(critic_step, [real], capture=CudaCapture(device), rewind=rewound(weights, optimizers))
        seen = step(real)

    Args:
        fn: from the inputs to a tensor or a (named) tuple of tensors; all else it does must be in place, without
            waiting for the device, and the same in every call.
        static_inputs: buffers of the inputs' shapes, taken over; their contents are what warm-up sees.
        capture: what records.
        rewind: what the warm-up's and the recording's changes are undone by, also where they raise.

    Returns:
        A function to the replayed result, which its next call overwrites; inputs of other shapes go through ``fn``.
    """
    with rewind:
        result, replay = capture(lambda: fn(*static_inputs))

    def step(*inputs: Tensor) -> Any:
        if [(t.shape, t.dtype) for t in inputs] != [(t.shape, t.dtype) for t in static_inputs]:
            return fn(*inputs)
        for buffer, given in zip(static_inputs, inputs, strict=True):
            buffer.copy_(given)
        replay()
        return result

    return step


class Graphs:
    """The recorded steps of a loop, each made when it is first needed.

    Args:
        capture: what records a step.
        networks: all that the steps change, besides the optimizers' states and the device's random generators.
        optimizers: their learning rates and step counts are moved to the device.
        device: where the steps run.

    Attributes:
        failure: why steps run eagerly, or None.
    """

    def __init__(
        self, capture: Capture, networks: nn.Module, optimizers: Sequence[torch.optim.Optimizer], device: torch.device
    ) -> None:
        self._capture, self._networks, self._optimizers, self._device = capture, networks, optimizers, device
        self._steps: dict[tuple[str, Hashable], Callable[..., Any]] = {}
        self.failure: str | None = None
        self.forget()

    def run(self, name: str, fn: Callable[..., Any], inputs: Sequence[Tensor], constant: Hashable = None) -> Any:
        """``fn(*inputs)``, by the graph of that name; eagerly, after one warning, where it cannot be recorded.

        ``constant``, and the optimizers' numbers, are constants of a recording: one is made anew when they change.
        """
        if self.failure is not None:
            return fn(*inputs)
        constants = (constant, *_numbers(self._optimizers))
        key = (name, constants)
        if key not in self._steps:
            self._steps = {other: step for other, step in self._steps.items() if other[1] == constants}
            buffers = [t.detach().clone(memory_format=torch.preserve_format) for t in inputs]
            try:
                self._steps[key] = graphed_step(fn, buffers, capture=self._capture, rewind=self.rewound())
            except Exception as error:  # any error of a user's module
                self._steps.clear()
                self.failure = (str(error).strip() or type(error).__name__).partition("\n")[0]
                warnings.warn(
                    f"the {name} cannot be recorded as a CUDA graph, training continues eagerly: {self.failure}",
                    stacklevel=2,
                )
                return fn(*inputs)
        return self._steps[key](*inputs)

    def rewound(self) -> AbstractContextManager[None]:
        """Undoes all that the steps change."""
        weights = [*self._networks.parameters(), *self._networks.buffers()]
        return rewound(weights, self._optimizers, default_generators(self._device))

    def forget(self) -> None:
        """Drop every recording: the tensors of the optimizers' states have been replaced."""
        self._steps.clear()
        _keep_on_device(self._optimizers)


def default_generators(device: torch.device) -> list[torch.Generator]:
    """The global random generators of the CPU and of the device, from which a step draws."""
    if device.type != "cuda":
        return [torch.default_generator]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]


def _numbers(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[Hashable]:
    """The numbers of the optimizers that a recording does not read from the device."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        for name, value in group.items():
            if name != "params":
                yield name, id(value) if isinstance(value, Tensor) else repr(value)


def _keep_on_device(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Make learning rates and step counts scalars of the parameters' device, where a CUDA graph can change them."""
    for optimizer, group in ((o, group) for o in optimizers for group in o.param_groups):
        device = group["params"][0].device
        group["capturable"] = True
        # fp64, as a Python number is: the update is then the eager one, bit for bit.
        group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float64, device=device)
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                state["step"] = state["step"].to(device)
