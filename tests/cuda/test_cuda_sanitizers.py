"""The CUDA kernels on the host under the compiler's sanitizers; and proof that each of these would catch its fault.

AddressSanitizer sees an access outside of a tensor, UndefinedBehaviorSanitizer a 16-byte access to an address that is
not a multiple of 16, ThreadSanitizer (each CUDA thread a real thread) what a missing barrier leaves unordered. The
faults, one for each kind of report, are planted in copies of the sources at test time.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import host_build
import pytest
from host_build import Fault

pytestmark = pytest.mark.skipif(host_build.compiler() is None, reason="g++ is not installed")

MEMORY = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREADS = ("-O1", "-fsanitize=thread", "-DHOST_CUDA_THREADS")


def exercise(flags: tuple[str, ...], *arguments: str, fault: Fault | None = None) -> tuple[int, str]:
    """Exit code and messages of host/exercise.cpp, built with these flags and this fault."""
    program: Path = host_build.build("exercise", host_build.HOST / "exercise.cpp", flags, fault=fault)
    # ThreadSanitizer does not know the widest layouts of a randomised address space.
    prefix = ["setarch", "-R"] if flags is THREADS and shutil.which("setarch") else []
    done = subprocess.run([*prefix, str(program), *arguments], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def test_no_kernel_touches_memory_outside_of_its_tensors_or_misaligned() -> None:
    code, messages = exercise(MEMORY)
    assert code == 0, messages


def test_no_kernel_races() -> None:
    code, messages = exercise(THREADS, "--few")
    assert code == 0, messages


def test_an_off_by_one_is_caught() -> None:
    fault = Fault("clip_weights", "multi_tensor.cuh", "if (pack < packs) held", "if (pack <= packs) held")
    code, messages = exercise(MEMORY, "clip_weights", fault=fault)
    assert code != 0
    assert "AddressSanitizer: heap-buffer-overflow" in messages


def test_a_misaligned_vector_access_is_caught() -> None:
    fault = Fault("interpolate", "launch.cuh", "% kPackBytes) == 0;", "% 1) == 0;")
    code, messages = exercise(MEMORY, "interpolate", fault=fault)
    assert code != 0
    assert "misaligned address" in messages


def test_a_store_to_an_absent_output_is_caught() -> None:
    kernel = "activation_double_backward"
    fault = Fault(kernel, f"{kernel}.cu", "if (to_saved != nullptr) store_pack", "store_pack")
    code, messages = exercise(MEMORY, kernel, fault=fault)
    assert code != 0
    assert "null pointer" in messages


def test_sums_of_warps_that_nobody_waits_for_are_caught() -> None:
    kernel, before = "norm_double_backward", "of_warp[threadIdx.x / kWarp] = sums;\n"
    fault = Fault(kernel, f"{kernel}.cu", f"{before}  __syncthreads();\n", before)
    code, messages = exercise(THREADS, "--few", kernel, fault=fault)
    assert code != 0
    assert "ThreadSanitizer: data race" in messages


def test_a_barrier_that_some_threads_skip_is_caught() -> None:
    kernel, barrier = "gradient_norm_penalty", "  __syncthreads();\n  W total"
    fault = Fault(kernel, "row_parts.cuh", barrier, f"  if (threadIdx.x != 7) {barrier.lstrip()}")
    code, messages = exercise(MEMORY, kernel, fault=fault)
    assert code != 0
    assert "a barrier was reached by some threads" in messages
