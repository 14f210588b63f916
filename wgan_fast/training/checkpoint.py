"""Checkpoints: a folder each, weights as safetensors, the rest loaded with ``weights_only=True``.

    checkpoints/00000600/weights.safetensors    generator.*, critic.*, average.*
    checkpoints/00000600/state.pt               optimizers, random generators, the iteration

A checkpoint is written to a temporary folder beside its place, flushed to the disk, and then renamed: a
folder whose name is a number is complete, whenever the process died.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wgan_fast.training.errors import UserError, require

KEPT = 2


class Checkpoint(NamedTuple):
    """``weights`` maps dotted names to tensors; ``state`` holds plain values, tensors and containers."""

    weights: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(run: Path, iteration: int, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint of this iteration into the run folder and remove all but the newest ``KEPT``.

    Returns:
        Its folder. Where this iteration has one already, that is left as it is.
    """
    safetensors = require("safetensors.torch", "checkpoints")
    folder = run / "checkpoints" / f"{iteration:08d}"
    if folder.is_dir():
        return folder
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    safetensors.save_file(_apart(checkpoint.weights), temporary / "weights.safetensors")
    torch.save(checkpoint.state, temporary / "state.pt")
    for path in (*temporary.iterdir(), temporary):
        _flush(path)
    os.replace(temporary, folder)
    _flush(folder.parent)
    for outdated in _complete(run)[:-KEPT]:
        shutil.rmtree(outdated)
    return folder


def load_checkpoint(run: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """The newest checkpoint of a run folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    safetensors = require("safetensors.torch", "checkpoints")
    folders = _complete(run)
    if not folders:
        raise UserError(f"{run}: no checkpoint in it")
    newest = folders[-1]
    damage = (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    )
    try:
        weights = safetensors.load_file(newest / "weights.safetensors", device=str(device))
        state = torch.load(newest / "state.pt", map_location=device, weights_only=True)
    except (*damage, require("safetensors", "checkpoints").SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{newest}: the checkpoint is damaged or foreign ({reason})") from error
    return Checkpoint(weights, state)


def nested(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below ``prefix.``, under their names without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in weights.items() if name.startswith(f"{prefix}.")}


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
    """Put the global random generators back where `random_state` found them."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"].cpu())
    if "numpy" in state:
        require("numpy", "the resumed run's random state").random.set_state(state["numpy"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _complete(run: Path) -> list[Path]:
    folder = run / "checkpoints"
    return sorted(p for p in folder.glob("*") if p.name.isdigit() and p.is_dir())


def _apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU where tensors share memory (tied weights), which safetensors refuses."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if address in seen else plain
        seen.add(address)
    return apart


def _flush(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # folders cannot be opened on every system
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
