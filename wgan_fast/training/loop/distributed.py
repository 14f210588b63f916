"""Several processes that train one network, as ``torchrun --nproc-per-node=2 -m wgan_fast train ...`` starts them.

The batch of a step is the config's, whatever the number of processes: each draws the whole of it, real samples,
noise and alpha, from the same random generators, and takes its own rows. The mean of their gradients is then the
gradient of the whole batch: N processes compute what one would, up to rounding. docs/scaling.md has the exceptions,
and the reasons for one all-reduce of one flat buffer per step in place of DistributedDataParallel.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wgan_fast.training.errors import UserError

Result = TypeVar("Result")

TIMEOUT = datetime.timedelta(minutes=5)
"""How long a process waits for one that is alive but silent; one that has died is noticed at once."""


class ProcessLost(UserError):
    """Another process of the run has died or has stopped answering."""


class Processes:
    """The processes of a run, seen from one of them: by default this one alone, else those of ``torch.distributed``.

    Decisions are exchanged on the CPU by a separate gloo group: no GPU synchronisation, and a process that has died
    is noticed within an iteration, as its connection closes.

    Args:
        rank: number of this process, from 0.
        size: number of processes; for more than one, the default process group must exist.

    Attributes:
        first: whether this is the process that writes and prints.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.first = rank, size, rank == 0
        self._decisions = dist.new_group(backend="gloo", timeout=TIMEOUT) if size > 1 else None
        self._under_way: tuple[Any, Tensor] | None = None

    def part(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch."""
        rows = len(batch) // self.size
        return batch if self.size == 1 else batch[self.rank * rows : (self.rank + 1) * rows]

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every ``.grad`` by its mean over the processes, in the layout of its parameter."""
        present = [(p, p.grad) for p in parameters if p.grad is not None]
        if self.size == 1 or not present:
            return
        flat = self.mean_(torch.cat([gradient.flatten() for _, gradient in present]))
        for (parameter, _), mean in zip(present, flat.split([p.numel() for p, _ in present]), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(mean.view_as(parameter))

    def mean_(self, values: Tensor) -> Tensor:
        """Mean over the processes, in place."""
        if self.size > 1:
            with self._noticing_loss():
                dist.all_reduce(values)
            values.div_(self.size)
        return values

    def agreed(self, wanted: bool) -> bool:
        """Whether any process passed True, the same result in all; with several processes the result is that of the
        previous call, so that none waits."""
        if self.size == 1:
            return wanted
        answer = self.settle()
        flag = torch.tensor(int(wanted))
        with self._noticing_loss():
            work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._decisions, async_op=True)
        self._under_way = work, flag
        return answer

    def settle(self) -> bool:
        """Wait for the exchange that `agreed` has started, and return its result."""
        if self._under_way is None:
            return False
        (work, flag), self._under_way = self._under_way, None
        with self._noticing_loss():
            work.wait()
        return bool(flag)

    def by_first(self, action: Callable[[], Result]) -> Result:
        """Run a function in the first process: all processes return its result or raise its `UserError`."""
        if self.size == 1:
            return action()
        outcome: list[Any] = [None]
        if self.first:
            try:
                outcome = [action()]
            except UserError as error:
                outcome = [error]
        with self._noticing_loss():
            dist.broadcast_object_list(outcome, src=0, group=self._decisions)
        if isinstance(outcome[0], UserError):
            raise outcome[0]
        return outcome[0]  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            what = f"has not answered for {TIMEOUT}" if "timed out" in str(error).lower() else "was lost"
            raise ProcessLost(f"process {self.rank} of {self.size}: another process of this run {what}") from error


@contextlib.contextmanager
def launched(device: str) -> Iterator[Processes]:
    """The processes that a launcher has started, by its variables RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR.

    Args:
        device: "cuda" gives every process of a machine a GPU of its own (NCCL); "cpu" connects them by gloo.

    Raises:
        UserError: the variables or the device are unusable; ProcessLost: not all processes connected.
    """
    if _number("WORLD_SIZE", 1) == 1:
        yield Processes()
        return
    kind = torch.device(device).type
    if ":" in device:
        raise UserError(f"--device {device}: several processes use one GPU each; expected {kind}")
    if kind == "cuda":
        local = _number("LOCAL_RANK", 0)
        if local >= torch.cuda.device_count():
            raise UserError(f"--device {device}: process {local} of this machine has no GPU of its own")
        torch.cuda.set_device(local)
    backend = "nccl" if kind == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
        processes = Processes(dist.get_rank(), dist.get_world_size())
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"the processes cannot be connected by {backend} ({reason})") from error
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that prints, by the launcher's variables."""
    return _number("WORLD_SIZE", 1) == 1 or _number("RANK", 0) == 0


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable, str(default))
    return int(value) if value.isdecimal() else default
