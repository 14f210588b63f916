"""Several processes that train one network, as ``torchrun --nproc-per-node=2 -m wgan_fast train ...`` starts them.

The batch of a step is the config's, whatever the number of processes: each draws the whole of it, real samples,
noise and all, from the same random generators, and takes its own rows. The mean of their gradients is then the
gradient of the whole batch, so that N processes do what one would do, up to rounding, and a checkpoint of either
continues in the other. What is not a mean over samples departs from that: batch normalisation uses the statistics of
a process's own rows, and DRAGAN their standard deviation.

Gradients are averaged by one all-reduce of one flat buffer a step, between ``torch.autograd.grad`` and the
optimizer. `torch.nn.parallel.DistributedDataParallel` computes the same, but only for gradients that ``backward()``
accumulates: it would give the critic's weights gradients in generator steps, where nothing needs them, and the
penalty's own pass through the critic would have to go around it. Its gain, communication that overlaps the backward
pass, comes from buckets of 25 MiB after a first one of 1 MiB: of every built-in network all but the first MiB would
wait for the end of the backward pass there too. See docs/scaling.md.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wgan_fast.constraints import Constraint, GradientPenalty
from wgan_fast.reference import accumulation_dtype
from wgan_fast.training.errors import UserError

TIMEOUT = datetime.timedelta(minutes=5)
"""How long a process waits for one that is alive but silent; one that has died is noticed at once."""


class ProcessLost(UserError):
    """Another process of the run has died or has stopped answering."""


class Processes:
    """The processes of a run, seen from one of them; this class itself is the single process of an ordinary run.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch."""
        return batch

    def shared(self, constraint: Constraint) -> Constraint:
        """The constraint, whose draws are this process's part of the whole batch's."""
        return constraint

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every ``.grad`` by its mean over the processes."""

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        return values

    def agreed(self, wanted: bool) -> bool:
        """Whether any process wants it: the same answer in all of them, perhaps one call late."""
        return wanted

    def of_first(self, value: str | None) -> str | None:
        """The first process's value, in all of them."""
        return value

    def by_first(self, action: Callable[[], None]) -> None:
        """Let the first process do something; a `UserError` in it is raised in all of them."""
        action()

    def synchronise(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's values, in place."""

    def settle(self) -> None:
        """Wait for what `agreed` has left under way."""


class TorchProcesses(Processes):
    """The processes of ``torch.distributed``, whose default group must exist.

    Small facts travel on the CPU by a group of their own: nothing waits for a GPU to hear of them, and a process
    that has died is noticed there within an iteration, as its connection closes.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._facts = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self._under_way: tuple[Any, Tensor] | None = None

    def part(self, batch: Tensor) -> Tensor:
        rows = len(batch) // self.size
        return batch[self.rank * rows : (self.rank + 1) * rows]

    def shared(self, constraint: Constraint) -> Constraint:
        drawn = isinstance(constraint, GradientPenalty) and constraint.points in ("mixed", "dragan")
        return _SharedDraws(constraint, self) if drawn else constraint

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        by_type: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_type.setdefault(parameter.grad.dtype, []).append(parameter)
        for dtype, group in by_type.items():
            flat = torch.empty(sum(p.numel() for p in group), dtype=dtype, device=group[0].device)
            means, offset = [], 0
            for parameter in group:
                means.append(flat.as_strided(parameter.shape, _dense_strides(parameter), offset))
                offset += parameter.numel()
            torch._foreach_copy_(means, [p.grad for p in group if p.grad is not None])
            with _noticing_loss(self):
                dist.all_reduce(flat)
            flat.div_(self.size)
            for parameter, mean in zip(group, means, strict=True):
                parameter.grad = mean

    def mean(self, values: Tensor) -> Tensor:
        total = values.clone()
        with _noticing_loss(self):
            dist.all_reduce(total)
        return total / self.size

    def agreed(self, wanted: bool) -> bool:
        """Answers for the call before this one, so that nobody waits: all processes stop one iteration later."""
        answer = self._answer()
        flag = torch.tensor(int(wanted))
        with _noticing_loss(self):
            self._under_way = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._facts, async_op=True), flag
        return answer

    def settle(self) -> None:
        self._answer()

    def _answer(self) -> bool:
        if self._under_way is None:
            return False
        work, flag = self._under_way
        self._under_way = None
        with _noticing_loss(self):
            work.wait()
        return bool(flag)

    def of_first(self, value: str | None) -> str | None:
        values = [value]
        with _noticing_loss(self):
            dist.broadcast_object_list(values, src=0, group=self._facts)
        return values[0]

    def by_first(self, action: Callable[[], None]) -> None:
        problem = None
        if self.first:
            try:
                action()
            except UserError as error:
                problem = str(error)
        problem = self.of_first(problem)
        if problem is not None:
            raise UserError(problem)

    def synchronise(self, tensors: Sequence[Tensor]) -> None:
        with _noticing_loss(self):
            for tensor in tensors:
                place = tensor.detach().contiguous()
                dist.broadcast(place, src=0)
                tensor.detach().copy_(place)


class _SharedDraws(Constraint):
    """A gradient penalty whose alpha is this process's part of the draw that one process would make."""

    def __init__(self, penalty: Constraint, processes: Processes) -> None:
        self._penalty = penalty
        self._processes = processes

    def prepare(self, critic: nn.Module, example: Tensor) -> nn.Module:
        return self._penalty.prepare(critic, example)

    def penalty(self, critic: Any, real: Tensor, fake: Tensor, **options: Any) -> tuple[Tensor, Tensor] | None:
        whole = torch.rand(len(real) * self._processes.size, dtype=accumulation_dtype(real.dtype), device=real.device)
        return self._penalty.penalty(critic, real, fake, alpha=self._processes.part(whole), **options)

    def add_gradients(self, critic: nn.Module) -> Tensor | None:
        return self._penalty.add_gradients(critic)


@contextlib.contextmanager
def launched(device: str) -> Iterator[Processes]:
    """The processes that a launcher has started, by its variables RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR.

    Args:
        device: "cuda" gives every process of a machine a GPU of its own (NCCL); "cpu" connects them by gloo.

    Raises:
        UserError: the variables or the device cannot serve; ProcessLost: not all processes came.
    """
    if size_from_environment() == 1:
        yield Processes()
        return
    kind = torch.device(device)
    if ":" in device:
        raise UserError(f"--device {device}: several processes take a GPU each; expected {kind.type}")
    if kind.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(f"--device {device}: process {local} of this machine has no GPU of its own")
        torch.cuda.set_device(local)
    backend = "nccl" if kind.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
        processes = TorchProcesses()
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"the processes cannot be connected by {backend} ({reason})") from error
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def size_from_environment() -> int:
    """How many processes a launcher has started, this one among them."""
    return _number("WORLD_SIZE", 1)


def is_first() -> bool:
    """Whether this process is the one that prints, by the launcher's variables."""
    return size_from_environment() == 1 or _number("RANK", 0) == 0


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable, str(default))
    return int(value) if value.isdecimal() else default


@contextlib.contextmanager
def _noticing_loss(processes: Processes) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        where = f"process {processes.rank} of {processes.size}"
        what = f"has not answered for {TIMEOUT}" if "timed out" in str(error).lower() else "was lost"
        raise ProcessLost(f"{where}: another process of this run {what}") from error


def _dense_strides(parameter: nn.Parameter) -> tuple[int, ...]:
    """Those of the parameter where it is channels-last, so that its gradient matches it; else the usual ones."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = formats.get(parameter.dim())
    if layout is not None and parameter.is_contiguous(memory_format=layout):
        return parameter.stride()
    return torch.empty(parameter.shape, device="meta").stride()
