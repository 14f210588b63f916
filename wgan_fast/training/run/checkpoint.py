"""Checkpoints: one folder each, weights as safetensors, the rest loaded with ``weights_only=True``::

    checkpoints/00000600/weights.safetensors    generator.*, critic.*, average.*
    checkpoints/00000600/state.pt               optimizers, random generators, the iteration
    checkpoints/00000600/manifest.json          format, versions, sizes and SHA-256 of the other two

A checkpoint is written to a hidden folder beside the final one, flushed to the disk, and then renamed: a folder
whose name is a number is complete even if the process died. Reading compares both files with the manifest
before loading them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import wgan_fast
from wgan_fast.training.errors import UserError, require, writing
from wgan_fast.training.files import flush, remove_folder, write_through

FORMAT = 1
FILES = WEIGHTS, STATE = ("weights.safetensors", "state.pt")


class Checkpoint(NamedTuple):
    """``weights`` maps dotted names to tensors; ``state`` holds plain values, tensors and containers."""

    weights: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    run: Path, iteration: int, checkpoint: Checkpoint, *, keep: int = 2, distance: float | None = None
) -> Path:
    """Write the checkpoint of this iteration into the run folder, in place of one that is there; returns its folder.

    If it cannot be written, the earlier ones are as they were.

    Args:
        keep: how many of the newest to keep, besides the best one.
        distance: how far the generated samples are from real ones; the best checkpoint has the smallest.
    """
    folder = _folder(run, iteration)
    files = _serialised(iteration, checkpoint, distance)
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        for leftover in folder.parent.glob(".[0-9]*-*"):  # of processes that died
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, content in files.items():
            write_through(temporary / name, content)
        flush(temporary)
        if folder.is_dir():
            remove_folder(folder)
        os.replace(temporary, folder)
        flush(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror or error
        raise UserError(f"{folder}: the checkpoint cannot be written ({reason}); {_advice(run)}") from error
    with contextlib.suppress(OSError):  # a checkpoint too many does no harm
        best = _best(run)
        for outdated in iterations(run)[:-keep]:
            if outdated != best:
                remove_folder(_folder(run, outdated))
    return folder


def load_checkpoint(run: Path, device: torch.device | str = "cpu", which: str | int = "newest") -> Checkpoint:
    """A checkpoint of a run folder. For a damaged one the message names the newest that is intact.

    Args:
        device: where the tensors of its state are put.
        which: "newest", "best" (the smallest distance to held-out samples), or an iteration.
    """
    iteration = _chosen(run, which)
    try:
        return _read(_folder(run, iteration), device)
    except UserError as error:
        raise UserError(f"{error}; {_advice(run, damaged=iteration)}") from error


def iterations(run: Path) -> list[int]:
    """Iterations of a run folder's complete checkpoints, ascending; damaged ones among them."""
    return sorted(int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdecimal() and p.is_dir())


def remove_later(run: Path, iteration: int) -> None:
    """Remove the checkpoints after this iteration, the newest first, so that the run continues from it."""
    for later in reversed(iterations(run)):
        if later > iteration:
            remove_folder(_folder(run, later))


def verify(folder: Path) -> dict[str, bytes]:
    """The content of a checkpoint's files, which agrees with the manifest byte for byte; nothing is unpickled."""
    manifest, content = _read_manifest(folder), {}
    for name in FILES:
        expected = manifest["files"][name]
        try:
            content[name] = (folder / name).read_bytes()
        except OSError as error:
            raise _damaged(folder, f"{name}: {error.strerror}") from error
        if len(content[name]) != expected["bytes"]:
            raise _damaged(folder, f"{name} has {len(content[name])} bytes of {expected['bytes']}")
        if hashlib.sha256(content[name]).hexdigest() != expected["sha256"]:
            raise _damaged(folder, f"the content of {name} has changed")
    return content


def _read(folder: Path, device: torch.device | str) -> Checkpoint:
    content = verify(folder)
    safetensors = require("safetensors.torch", "checkpoints")
    damage = (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)
    try:
        state = torch.load(io.BytesIO(content[STATE]), map_location=device, weights_only=True)
        return Checkpoint(safetensors.load(content[WEIGHTS]), state)
    except (*damage, require("safetensors", "checkpoints").SafetensorError) as error:
        raise _damaged(folder, str(error).partition("\n")[0]) from error


def _serialised(iteration: int, checkpoint: Checkpoint, distance: float | None) -> dict[str, bytes]:
    """All files in memory: their hashes are known before they are written, and disk errors are OSErrors."""
    state = io.BytesIO()
    torch.save(checkpoint.state, state)
    # Copies: safetensors refuses tensors that share memory, as tied weights do, and strided ones.
    weights = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in checkpoint.weights.items()
    }
    content = require("safetensors.torch", "checkpoints").save(weights)
    files = {WEIGHTS: content, STATE: state.getvalue()}
    hashes = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    manifest = {
        "format": FORMAT,
        "wgan_fast": wgan_fast.__version__,
        "torch": torch.__version__,
        "iteration": iteration,
        "sliced_wasserstein": distance,
        "files": hashes,
    }
    return {**files, "manifest.json": (json.dumps(manifest, indent=2) + "\n").encode()}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise _damaged(folder, "it has no manifest.json")
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version, iteration = manifest["format"], manifest["iteration"]
        complete = version != FORMAT or all({"bytes", "sha256"} <= manifest["files"][name].keys() for name in FILES)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(folder, "manifest.json cannot be read") from error
    if version != FORMAT:
        raise UserError(f"{folder}: the checkpoint has format {version}; this version of wgan_fast reads {FORMAT}")
    if iteration != int(folder.name) or not complete:
        raise _damaged(folder, "manifest.json is of another checkpoint")
    return manifest


def _folder(run: Path, iteration: int) -> Path:
    return run / "checkpoints" / f"{iteration:08d}"


def _chosen(run: Path, which: str | int) -> int:
    """The iteration of the newest, the best or a named checkpoint."""
    present = iterations(run)
    if not present:
        raise UserError(f"{run}: no checkpoint in it")
    if which == "newest":
        return present[-1]
    if which == "best":
        best = _best(run)
        if best is None:
            raise UserError(f"{run}: none of its checkpoints has been compared with real samples; newest is there")
        return best
    if not str(which).isdecimal() or int(which) not in present:
        known = ", ".join(map(str, present))
        raise UserError(f"--checkpoint {which}: expected newest, best or one of the iterations {known}")
    return int(which)


def _best(run: Path) -> int | None:
    compared: list[tuple[float, int]] = []
    for iteration in iterations(run):
        with contextlib.suppress(UserError):
            distance = _read_manifest(_folder(run, iteration)).get("sliced_wasserstein")
            if isinstance(distance, float):
                compared.append((distance, iteration))
    return min(compared)[1] if compared else None


def _advice(run: Path, damaged: int | None = None) -> str:
    """The newest checkpoint to continue from in place of a damaged one, as the end of a message."""
    for iteration in reversed(iterations(run)):
        if iteration != damaged:
            with contextlib.suppress(UserError):
                verify(_folder(run, iteration))
                return f"the checkpoint of iteration {iteration} is intact: use --checkpoint {iteration}"
    return "there is no intact checkpoint"


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder}: the checkpoint is damaged or foreign ({reason})")


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder, which is made where it does not exist.

    The lock is that of the folder itself and ends with the process; some network file systems have none.

    Raises:
        UserError: another process holds it, or the folder cannot be made.
    """
    with writing(f"--out {run}"):
        run.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(run, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"--out {run}: another process is training in this folder") from None
        yield
    finally:
        os.close(descriptor)
