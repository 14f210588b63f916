"""Every CUDA kernel file compiled by nvcc for sm_80 and sm_90, and what the machine code must have and not have."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from typing import NamedTuple

import pytest
from host_build import KERNELS, compiled_kernels

from build_tools import cuda

pytestmark = pytest.mark.skipif(cuda.find_nvcc() is None, reason="nvcc is not installed")

ARCHITECTURES = ["sm_80", "sm_90"]
WIDE_ACCESS = r"\b{}\.global(?:\.nc)?\.(?:v4\.[bfu]32|v2\.[bfu]64)\b"


class Kernel(NamedTuple):
    name: str
    registers: int
    stack: int
    spilled: int


@functools.cache
def compiled(source: str) -> tuple[str, str]:
    """ptxas's report on a kernel file, for all architectures, and its PTX for sm_90."""
    (folder,) = (path.parent for path in compiled_kernels() if path.stem == source)
    report = (folder / "ptxas.txt").read_text()
    if demangler := shutil.which("c++filt"):
        report = subprocess.run([demangler], input=report, capture_output=True, text=True, check=True).stdout
    return report, (folder / f"{source}.compute_90.ptx").read_text()


def kernels_of(report: str, architecture: str) -> list[Kernel]:
    pattern = (
        rf"Compiling entry function '(?P<name>[^']+)' for '{architecture}'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers"
    )
    found = []
    for match in re.finditer(pattern, report, re.DOTALL):
        name = re.sub(r"wgan_fast::|\(anonymous namespace\)::|^void ", "", match["name"]).split(">(")[0]
        spilled = int(match["stores"]) + int(match["loads"])
        found.append(Kernel(name, int(match["registers"]), int(match["stack"]), spilled))
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", KERNELS)
def test_no_kernel_spills_or_uses_a_stack(source: str, architecture: str) -> None:
    report, _ = compiled(source)
    kernels = kernels_of(report, architecture)
    print("\n".join(f"{architecture} {kernel.registers:4d} registers  {kernel.name}" for kernel in kernels))
    assert len(kernels) == len(re.findall(rf"entry function .* for '{architecture}'", report)) >= 4, report
    assert [kernel for kernel in kernels if kernel.stack or kernel.spilled] == []


# Accesses of 16 bytes that each dtype's kernels make at the least: loads and stores.
PACKS = {
    # One pack of each of three tensors, one of each of two.
    "activation_double_backward": (3, 2),
    # Four packs are loaded before the first is stored.
    "clip_weights": (4, 4),
    "interpolate": (8, 4),
    # fp64 holds four packs of a row, the others eight; a loop over parts does the same.
    "gradient_norm_penalty": (4, 4),
    # 16-bit values: one pack of each of three tensors, one of each of two; the others two.
    "norm_double_backward": (3, 2),
    # Two packs of each of three arrays are loaded, two of two stored.
    "optimizer_step": (6, 4),
}


@pytest.mark.parametrize("source", KERNELS)
def test_memory_is_accessed_16_bytes_at_a_time(source: str) -> None:
    _, ptx = compiled(source)
    entries = re.split(r"(?=\.visible \.entry|\.entry )", ptx)[1:]
    wide = [entry for entry in entries if re.search(WIDE_ACCESS.format("ld"), entry)]
    loads, stores = PACKS[source]
    # One kernel a dtype at the least takes packs; narrower kernels of its kind serve unaligned memory.
    assert len(wide) >= 4
    for entry in wide:
        assert len(re.findall(WIDE_ACCESS.format("ld"), entry)) >= loads
        if "partial_sums" not in entry.split("(")[0]:
            assert len(re.findall(WIDE_ACCESS.format("st"), entry)) >= stores


def entries_named(name: str, source: str) -> list[str]:
    _, ptx = compiled(source)
    return [entry for entry in re.split(r"(?=\.entry )", ptx) if name in entry.split("(")[0]]


def test_adam_loads_before_it_takes_powers() -> None:
    """fp64 powers, which all threads of a block wait for, take longer than the first loads do."""
    entries = entries_named("AdamStep", "optimizer_step")
    assert len(entries) == 8
    for entry in entries:
        load = re.search(WIDE_ACCESS.format("ld"), entry)
        powers = re.search(r"__internal_accurate_pow|\bbar(?:rier)?\.", entry)
        assert load is not None
        assert powers is not None
        assert load.start() < powers.start()


def test_slopes_of_split_rows_wait_for_nothing() -> None:
    """Their norms are known: no sum over threads, no partial sums to read."""
    entries = entries_named("split_slopes", "gradient_norm_penalty")
    assert len(entries) == 8
    assert [entry for entry in entries if re.search(r"\bbar(?:rier)?\.|\bshfl\.", entry)] == []
