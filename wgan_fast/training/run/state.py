"""All that an iteration changes, taken from a `Trainer` and restored: the basis of exact resume."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wgan_fast.training.errors import UserError, require
from wgan_fast.training.loop.health import NonFinite
from wgan_fast.training.loop.trainer import Trainer
from wgan_fast.training.run.checkpoint import Checkpoint


def snapshot(trainer: Trainer) -> Checkpoint:
    """Weights, optimizer states, random generators and the iteration."""
    state = {
        "iteration": trainer.iteration,
        "restores": trainer.restores,
        **{name: part.state_dict() for name, part in _stateful(trainer).items()},
        "data_order": trainer.draws.order.get_state(),
        "random": random_state(trainer.device),
    }
    return Checkpoint(trainer.networks().state_dict(), state)


def restore(trainer: Trainer, checkpoint: Checkpoint, source: Path) -> None:
    """Restore a snapshot; the trainer continues as if it had never stopped. ``source`` is named where it is of other
    networks."""
    weights, state = checkpoint
    networks = trainer.networks()
    try:
        networks.load_state_dict({name: t for name, t in weights.items() if name.partition(".")[0] in networks})
        for name, part in _stateful(trainer).items():
            part.load_state_dict(state[name])
        trainer.draws.order.set_state(state["data_order"].cpu())
        restore_random_state(state["random"], trainer.device)
        trainer.iteration = state["iteration"]
        trainer.restores = state["restores"]
        if trainer.graphs is not None:
            trainer.graphs.forget()
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: its checkpoint belongs to other networks ({reason})") from error


def check_finite(checkpoint: Checkpoint) -> None:
    """Raise `NonFinite` for the first weight or optimizer state that holds NaN or an infinity; synchronises once."""
    named = dict(checkpoint.weights)
    for player in ("critic", "generator"):
        for index, values in checkpoint.state[f"{player}_optimizer"]["state"].items():
            named |= {f"{player}_optimizer.{index}.{name}": value for name, value in values.items()}
    floating = {name: t for name, t in named.items() if isinstance(t, Tensor) and t.is_floating_point() and t.numel()}
    if not floating:
        return
    device = max((t.device for t in floating.values()), key=lambda d: d.type != "cpu")
    finite = torch.stack([t.isfinite().all().to(device, non_blocking=True) for t in floating.values()]).tolist()
    for name, is_finite in zip(floating, finite, strict=True):
        if not is_finite:
            raise NonFinite(f"{name} holds NaN or infinite values at iteration {checkpoint.state['iteration']}")


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of the global random generators of Python, NumPy (where loaded) and torch."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        state["numpy"] = (name, keys.tolist(), *rest)
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore the global random generators to the states of `random_state`."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"].cpu())
    if "numpy" in state:
        require("numpy", "the resumed run's random state").random.set_state(state["numpy"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _stateful(trainer: Trainer) -> dict[str, Any]:
    """What has a state besides the networks: the optimizers, and the loss scaling of fp16."""
    names = ("critic_optimizer", "generator_optimizer", "critic_scaler", "generator_scaler")
    return {name: getattr(trainer, name) for name in names if getattr(trainer, name) is not None}
