"""Which kernels a call launches on a GPU, by name: counted by the benchmarks, asserted by the tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def kernels(call: Callable[[], object]) -> list[str]:
    """Names of the kernels that a call launches, when warm; copies and memsets left out."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        call()
        torch.cuda.synchronize()
    events = [event for event in recorded.events() if event.device_type.name == "CUDA"]
    # A range such as Optimizer.step#RMSprop.step has its shadow among the events of the device.
    names = [event.name for event in events if not event.is_user_annotation]
    return [name for name in names if not name.startswith(("Memcpy", "Memset", "Optimizer."))]
