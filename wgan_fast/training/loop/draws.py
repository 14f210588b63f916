"""All random draws of an iteration: real samples, noise, and the points of a gradient penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_fast.constraints import Constraint, GradientPenalty
from wgan_fast.reference import accumulation_dtype
from wgan_fast.training.config import Config
from wgan_fast.training.data.sets import Data, draw_batch
from wgan_fast.training.loop.distributed import Processes
from wgan_fast.training.loop.graphs import default_generators


class Draws:
    """Draws of one process. Each of several draws the whole batch, from generators in equal states, and takes its rows.

    Attributes:
        order: draws the real samples; all else comes from the device's default generator.
    """

    def __init__(self, data: Data, config: Config, device: torch.device, processes: Processes) -> None:
        self._data, self._config, self._device, self._processes = data, config, device, processes
        self._upload = Upload(device)
        # Indices drawn on another device than the data's would synchronise.
        self.order = torch.Generator(getattr(data, "device", device)).manual_seed(config.seed)

    def batch(self) -> list[Tensor]:
        """Samples and, for a conditional pair, their classes."""
        config = self._config
        drawn = draw_batch(self._data, config.batch_size, self.order, labelled=config.conditional)
        samples, *labels = (self._processes.part(tensor) for tensor in drawn if tensor is not None)
        if config.channels_last:
            samples = samples.contiguous(memory_format=torch.channels_last)
        return [self._upload(tensor) for tensor in (samples, *labels)]

    def latent(self, count: int) -> Tensor:
        """``(count, latent_dim)`` standard normal noise."""
        whole = torch.randn(count * self._processes.size, self._config.latent_dim, device=self._device)
        return self._processes.part(whole)

    def alpha(self, constraint: Constraint, samples: Tensor) -> Tensor | None:
        """With several processes, the positions ``(B,)`` of the penalty's random points; None where the penalty draws
        them itself, or has none."""
        size = self._processes.size
        if size == 1 or not isinstance(constraint, GradientPenalty) or constraint.points not in ("mixed", "dragan"):
            return None
        dtype = accumulation_dtype(samples.dtype)
        return self._processes.part(torch.rand(len(samples) * size, dtype=dtype, device=samples.device))

    def synchronise(self) -> None:
        """Give every process the first one's random generators."""
        mine = (*default_generators(self._device), self.order)
        states = self._processes.by_first(lambda: [generator.get_state() for generator in mine])
        for generator, state in zip(mine, states, strict=True):
            generator.set_state(state)


class Upload:
    """Copies host tensors to a CUDA device on a stream of its own, without waiting, during the last step's work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu" or self.device.type != "cuda":
            return tensor.to(self.device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        pinned = tensor.pin_memory()  # from torch's cache, which waits for the copy before it reuses the memory
        with torch.cuda.stream(self._stream):
            there = pinned.to(self.device, non_blocking=True)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        there.record_stream(current)
        return there
