"""Products of fp32 matrices on the CPU by oneDNN, where torch's own way is slower.

torch uses MKL. On two cores of an AMD EPYC with AVX-512 that reached 190 GFLOP/s where oneDNN, which torch ships for
convolutions and 16-bit types, reached 400: more than two cores of Zen 4 can, whose AVX-512 units are 256 bits wide. On
Zen 4 both reach 190 to 210, and oneDNN copies transposed operands; there, and on Intel's processors, MKL is kept. The
choice depends on the processor alone, so a run and its continuation use the same library; oneDNN's bits did not depend
on the addresses there.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_fast.dtypes import PLAIN_TYPES

LEAST_WORK = 1 << 21
"""Multiplications below which the longer call path of oneDNN does not pay."""

NARROW = 16
"""Outputs up to which MKL is faster."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, equal to ``F.linear`` to rounding; without autograd.

    Args:
        x: ``(M, K)``.
        weight: ``(N, K)``; the transpose of another matrix is as good.
        bias: ``(N,)``.
    """
    if operation() is None or not serves(x, weight, bias):
        return F.linear(x, weight, bias)
    result: Tensor = operation()(x, weight, bias, "none", [], "")
    return result


def times(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` for a matrix b, likewise."""
    if operation() is None or a.dim() != 2:
        return a @ b
    return product(a, b.t())


def serves(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return (
        x.dim() == weight.dim() == 2
        and x.shape[1] == weight.shape[1]
        and x.dtype == weight.dtype == torch.float32
        and x.is_cpu
        and weight.is_cpu
        and weight.shape[0] > NARROW
        and x.numel() * weight.shape[0] >= LEAST_WORK
        and PLAIN_TYPES.issuperset((type(x), type(weight)))
        and (bias is None or (type(bias) in PLAIN_TYPES and bias.dtype == torch.float32 and bias.is_cpu))
        and (bias is None or bias.shape == weight.shape[:1])
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and operation() is not None
    )


@functools.cache
def operation() -> Any:
    """oneDNN's product as torch registers it for its compiler, or None; no public function leads to it in fp32."""
    found = getattr(getattr(torch.ops, "mkldnn", None), "_linear_pointwise", None)
    if found is None or not torch._C._has_mkldnn or not _mkl_is_slow():
        return None
    try:
        matrix = torch.eye(2, dtype=torch.float32, device="cpu")  # whatever the defaults are here
        return found if torch.equal(found(matrix, matrix, None, "none", [], ""), matrix) else None
    except (RuntimeError, TypeError, NotImplementedError):  # another signature, in another version of torch
        return None


ZEN_5 = 26
"""AMD's number of the processor family."""


def _mkl_is_slow() -> bool:
    """Whether this is an AMD processor of Zen 5 or later, whose AVX-512 torch uses."""
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    family = re.search(r"^cpu family\s*: (\d+)$", processor, re.MULTILINE)
    wide = "AuthenticAMD" in processor and family is not None and int(family[1]) >= ZEN_5
    return wide and torch.backends.cpu.get_cpu_capability() == "AVX512"
