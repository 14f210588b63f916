"""Executes PTX on the CPU: the code that a GPU would be given, with every access to memory checked.

    module = Module(ptx)
    module.kernel(name).launch(blocks, threads, parameters, allocations)

The threads of a block are lanes of NumPy arrays, and as many blocks as fit side by side run together. Where lanes part
at a branch, each group goes on alone; the group at the smallest program counter runs first, so that groups meet again
where the paths join. What the interpreter reports as a ``Fault``:

- an access outside every allocation that the launch was given, or not aligned to its width;
- a read of shared memory that was never written;
- a race: two threads touch a byte, one of them writes, and no barrier of their block or of their warp lies between;
- a barrier, or a shuffle, that some of the threads do not reach;
- a kernel that does not end.

Floating point is IEEE; the approximate instructions (ex2.approx, tanh.approx, ...) give the exact result rounded,
where the hardware's is some units off. What it does not know (atomics, tensor cores, asynchronous copies, barriers of
part of a warp) is an ``UnknownPtx`` with the name of the instruction.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import memory_access
import numpy as np
from checked_memory import Allocation, GlobalMemory, SharedMemory
from instructions import BUILDERS, Operation, Step
from lanes import TYPES, Lanes, Mask, Source
from ptx_text import Function, Instruction, UnknownPtx, Variable, parse
from races import Fault
from warps import WHO_WAITS, Waiting, Waits

__all__ = ["Allocation", "Fault", "Module", "UnknownPtx"]

# Lanes that run together: fewer, and NumPy's own time per call dominates; more, and registers leave the cache.
LANES = 4096
KEPT = 32  # kernels that stay bound to lanes: the registers of one take some 10 MB
MOST_STEPS = 1_000_000  # instructions in a row: a loop that does not end

# What a step of control flow returns: where groups of lanes go on. None: the next instruction.
Targets = list[tuple[int, Mask | Waiting]]


class Module:
    def __init__(self, ptx: str) -> None:
        self.parsed = parse(ptx)

    @property
    def kernels(self) -> list[str]:
        return [name for name, function in self.parsed.functions.items() if function.is_kernel]

    @lru_cache  # noqa: B019  # a module lives as long as its kernels
    def kernel(self, name: str) -> Kernel:
        return Kernel(self, self.parsed.functions[name])


class Kernel:
    def __init__(self, module: Module, function: Function) -> None:
        self.name = function.name
        self.function = function
        others = [other for other in module.parsed.functions.values() if not other.is_kernel]
        # Called functions first: their lanes, at smaller program counters, come back before the others go on.
        self.functions = [*others, function]
        self.parameters = _placed(function.parameters)
        self.parameter_bytes = max((offset + (size or 0) for offset, size in self.parameters.values()), default=0)
        shared = [*module.parsed.shared, *function.shared]
        self.shared = _placed(sorted(shared, key=lambda variable: variable.size is None))
        self.static_shared = max((offset + (size or 0) for offset, size in self.shared.values()), default=0)
        accesses = [instruction for instruction in function.code if instruction.parts[0] in ("ld", "st")]
        outside = [each for each in accesses if not {"shared", "param"} & set(each.parts)]
        self.narrowest = min((_element_bytes(each) for each in outside), default=1)

    def launch(
        self,
        blocks: int,
        threads: int,
        parameters: bytes,
        allocations: Iterable[Allocation],
        dynamic_shared: int = 0,
        blocks_together: int | None = None,
    ) -> None:
        """Run ``blocks`` blocks of ``threads`` threads; ``parameters``: the bytes of all, each at its offset."""
        assert len(parameters) == self.parameter_bytes, (len(parameters), self.parameter_bytes)
        memory = GlobalMemory(allocations, threads, self.narrowest)
        together = min(blocks, blocks_together or max(1, LANES // threads))
        for first in range(0, blocks, together):
            count = min(together, blocks - first)
            bound = _bound(self, count, threads)
            lanes = bound.lanes
            lanes.memory = memory
            lanes.shared = SharedMemory(self.static_shared + dynamic_shared, count, threads)
            lanes.parameters = np.frombuffer(parameters, np.uint8)
            lanes.grid_block = lanes.block + np.uint32(first)
            lanes.grid_blocks = np.full(lanes.count, blocks, np.uint32)
            lanes.epochs[:] = lanes.warp_epochs[:] = 0
            try:
                with np.errstate(all="ignore"):
                    bound.run()
            except Fault as fault:
                raise Fault(f"{self.name}: {fault}") from None

    def pack(self, values: Iterable[object]) -> bytes:
        """Parameters that are numbers or addresses, as the bytes of a launch."""
        packed = bytearray(self.parameter_bytes)
        for variable, value in zip(self.function.parameters, values, strict=True):
            offset, size = self.parameters[variable.name]
            assert size is not None
            packed[offset : offset + size] = np.array(value, TYPES[variable.kind]).tobytes()
        return bytes(packed)


def _placed(variables: Iterable[Variable]) -> dict[str, tuple[int, int | None]]:
    """Offset and size of each, one after another."""
    placed, end = {}, 0
    for variable in variables:
        end = -(-end // variable.align) * variable.align
        placed[variable.name] = (end, variable.size)
        end += variable.size or 0
    return placed


def _element_bytes(instruction: Instruction) -> int:
    kind = next(part for part in instruction.parts if part in TYPES)
    return 2 if kind == "bf16" else TYPES[kind].itemsize


def _joined(one: Mask, other: Mask) -> Mask:
    assert one is not None
    assert other is not None
    both = one | other
    return None if both.all() else both


class Bound:
    """A kernel bound to lanes: one function per instruction, to be called with the mask of the lanes that run it."""

    def __init__(self, kernel: Kernel, blocks: int, threads: int) -> None:
        self.lanes = Lanes(blocks, threads, {name: offset for name, (offset, _) in kernel.shared.items()})
        self.lanes.parameter_names = {name: offset for name, (offset, _) in kernel.parameters.items()}
        self.starts: dict[str, int] = {}
        self.returns: dict[str, np.ndarray] = {}
        self.functions = {function.name: function for function in kernel.functions}
        position = 0
        for function in kernel.functions:
            self.starts[function.name] = position
            self.returns[function.name] = np.full(self.lanes.count, -1, np.int64)
            self.lanes.enter(function)
            position += len(function.code) + 1  # falling off the end is a return
        self.entry = self.starts[kernel.name]
        self.steps: list[Step] = []
        self.waits: dict[int, Waits] = {}
        for function in kernel.functions:
            for each in function.code:
                self.steps.append(self._step(function, each))
            self.steps.append(self._return(function))

    # -------------------------------------------------------------------------------------------------- the loop

    def run(self) -> None:
        steps = self.steps
        ready: dict[int, Mask] = {self.entry: None}
        waiting: dict[int, Mask] = {}  # at barriers and shuffles, for others
        executed = 0
        while ready:
            at = min(ready)
            mask = ready.pop(at)
            meet = min((other for other in (*ready, *waiting) if other > at), default=len(steps))
            targets: Targets | None = None
            while targets is None and at < meet:
                targets = steps[at](mask)
                at += 1
                executed += 1
            if executed > MOST_STEPS:
                raise Fault(f"no end after {MOST_STEPS} instructions")
            for target, group in [(at, mask)] if targets is None else targets:
                if isinstance(group, Waiting):
                    waiting[at - 1] = group.mask
                    continue
                for groups in (ready, waiting):
                    group = _joined(group, groups.pop(target)) if target in groups else group
                ready[target] = group
        if waiting:
            at, mask = waiting.popitem()
            raise Fault(self.waits[at].fault(mask))

    # ----------------------------------------------------------------------------------------------- instructions

    def _step(self, function: Function, instruction: Instruction) -> Step:
        op = Operation(instruction, function, self.lanes)
        position = len(self.steps)
        if op.name == "bra":
            return self._branch(op, self.starts[function.name] + function.labels[op.operands[0]], position + 1)
        if op.name in ("ret", "exit"):
            return self._guarded_end(op, self._return(function), position + 1)
        if op.name == "call":
            step = self._call(op, position + 1)
        elif op.name in BUILDERS:
            step = BUILDERS[op.name](op)
        else:
            raise UnknownPtx(f"unknown instruction {op.name}: {instruction}")
        if op.name in WHO_WAITS:
            self.waits[position] = WHO_WAITS[op.name](op)
            step = self._together(step, self.waits[position], position + 1)
        if instruction.guard is None:
            return step
        if op.name == "call" or op.name in WHO_WAITS:
            raise op.unknown()
        guard = self._guard(op)

        def guarded(mask: Mask) -> None:
            chosen = guard() if mask is None else mask & guard()
            if chosen.all():
                step(None)
            elif chosen.any():
                step(chosen)

        return guarded

    def _together(self, step: Step, waits: Waits, following: int) -> Step:
        """Lanes go on with those that they wait for; the others wait."""

        def together(mask: Mask) -> Targets | None:
            complete = None if mask is None else waits.complete(mask)
            if mask is None or complete is None:
                step(mask)
                return None
            alone = (following - 1, Waiting(mask & ~complete))
            if not complete.any():
                return [alone]
            step(complete)
            return [(following, complete), alone]

        return together

    def _guard(self, op: Operation) -> Source:
        assert op.instruction.guard is not None
        predicate = self.lanes.source(op.function, op.instruction.guard, "pred")
        # A mask of its own: the register may change while lanes still wait.
        return (lambda: ~predicate()) if op.instruction.negated else (lambda: np.copy(predicate()))

    def _split(self, op: Operation, mask: Mask, guard: Source) -> tuple[Mask | bool, Mask | bool]:
        """The lanes whose guard is true and the others; False where there are none."""
        chosen = guard() if mask is None else mask & guard()
        if not chosen.any():
            return False, mask
        others = ~chosen if mask is None else mask & ~chosen
        if not others.any():
            return mask, False
        return chosen, others

    def _branch(self, op: Operation, target: int, following: int) -> Step:
        op.allow("uni")
        if op.instruction.guard is None:
            return lambda mask: [(target, mask)]
        guard = self._guard(op)

        def step(mask: Mask) -> Targets | None:
            taken, others = self._split(op, mask, guard)
            if taken is False:
                return None
            if others is False:
                return [(target, taken)]
            if target == following:
                return None
            return [(target, taken), (following, others)]

        return step

    def _guarded_end(self, op: Operation, end: Step, following: int) -> Step:
        if op.instruction.guard is None:
            return end
        guard = self._guard(op)

        def step(mask: Mask) -> Targets | None:
            ending, others = self._split(op, mask, guard)
            if ending is False:
                return None
            targets = end(ending)
            return targets if others is False else [*targets, (following, others)]

        return step

    def _return(self, function: Function) -> Step:
        if function.is_kernel:
            return lambda mask: []
        returns = self.returns[function.name]

        def step(mask: Mask) -> Targets:
            targets = np.unique(returns if mask is None else returns[mask])
            if len(targets) == 1:
                return [(int(targets[0]), mask)]
            return [(int(t), (returns == t) if mask is None else mask & (returns == t)) for t in targets]

        return step

    def _call(self, op: Operation, following: int) -> Step:
        op.allow("uni")
        *results, name, arguments = [operand.strip("() ") for operand in op.operands]
        if name not in self.functions:
            raise UnknownPtx(f"a call of a function that is not there: {op.instruction}")
        callee = self.functions[name]
        inner = Operation(op.instruction, callee, self.lanes)
        given = [memory_access.call_parameter(op, each.strip()) for each in arguments.split(",")]
        taken = [memory_access.call_parameter(inner, each.name) for each in callee.parameters]
        for outside, inside in zip(results, callee.results, strict=True):
            # The caller reads what the function has left behind.
            key = f"{op.function.name}:{outside}"
            self.lanes.call_parameters[key] = memory_access.call_parameter(inner, inside.name)
        returns, start = self.returns[name], self.starts[name]

        def step(mask: Mask) -> Targets:
            where = True if mask is None else mask
            for source, target in zip(given, taken, strict=True):
                np.copyto(target, source, where=where)
            np.copyto(returns, following, where=where)
            return [(start, mask)]

        return step


@lru_cache(KEPT)
def _bound(kernel: Kernel, blocks: int, threads: int) -> Bound:
    return Bound(kernel, blocks, threads)
