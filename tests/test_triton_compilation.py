"""Every Triton kernel compiled ahead of time for sm_80 and sm_90, and what the machine code must have and not have.

What is compiled is what the launchers launch: they run on CPU tensors here, with the launch itself recorded.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from samples import DTYPES
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter does not compile", allow_module_level=True)

triton = pytest.importorskip("triton", minversion="3.5")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia import compiler as nvidia  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from wgan_fast.activation_table import ACTIVATIONS  # noqa: E402
from wgan_fast.backends.triton import (  # noqa: E402
    activation_double_backward,
    clip_weights,
    gradient_norm_penalty,
    interpolate,
    norm_double_backward,
    optimizer_step,
)
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions  # noqa: E402

ARCHITECTURES = [80, 90]
TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
}
# Kernels in which every thread minds its own elements: nothing passes through shared memory.
MOST_REGISTERS = {"clip_kernel": 40, "rmsprop_kernel": 64, "adam_kernel": 64}
# Bytes per thread on the stack. Of the code that Triton 3.5 makes for bf16, ptxas spills one address of Adam's, once.
MOST_SPILLED = {"adam_kernel": 8} if triton.__version__.startswith("3.5.") else {}
SPILLS = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
WIDE_ACCESS = r"\.global(?:\.\w+)*\.(?:v4\.[bfu]32|v2\.[bfu]64|v8\.[bfu]16)\b"


class Launch(NamedTuple):
    kernel: Any
    warps: int
    arguments: tuple[Any, ...]
    constants: tuple[Any, ...]


class Compiled(NamedTuple):
    loads: int  # of 128 bits
    stores: int
    registers: int
    assembly: str
    layouts_changed: int  # values moved between threads
    report: str


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    recorded: list[Launch] = []

    def record(kernel: Any, programs: int, warps: int, arguments: Any, constants: Any) -> None:
        recorded.append(Launch(kernel, warps, arguments, constants))

    modules = (activation_double_backward, clip_weights, gradient_norm_penalty, interpolate)
    for module in (*modules, norm_double_backward, optimizer_step):
        monkeypatch.setattr(module, "launch", record)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(Path(__file__).parents[1] / "build" / "triton"))
    yield recorded
    assert recorded, "nothing was launched"


def ptxas(architecture: int) -> str:
    """The assembler that Triton brings along; releases before 3.6 have one for all architectures."""
    wanted = inspect.signature(nvidia.get_ptxas).parameters
    return str(nvidia.get_ptxas(*[architecture][: len(wanted)]).path)


def compile_for(launch: Launch, architecture: int) -> Compiled:
    signature, constants = {}, {}
    for parameter, value in zip(launch.kernel.params, (*launch.arguments, *launch.constants), strict=True):
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[parameter.name] = f"*{TYPES[value.dtype]}"
        else:
            signature[parameter.name] = parameter.annotation_type
    source = ASTSource(launch.kernel, signature, constexprs=constants)
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": launch.warps, "enable_fp_fusion": False}
    stages = triton.compile(source, target=target, options=options).asm
    assembly = stages["ptx"]
    (name,) = re.findall(r"\.target (sm_\w+)", assembly)
    tool = [ptxas(architecture), "-v", f"-arch={name}", "-o", os.devnull, "/dev/stdin"]
    report = subprocess.run(tool, input=assembly, capture_output=True, text=True, check=True).stderr
    return Compiled(
        loads=len(re.findall("ld" + WIDE_ACCESS, assembly)),
        stores=len(re.findall("st" + WIDE_ACCESS, assembly)),
        registers=int(re.findall(r"(\d+) registers", report)[0]),
        assembly=assembly,
        layouts_changed=stages["ttgir"].count("ttg.convert_layout"),
        report=report,
    )


def check(launches: list[Launch], accesses: dict[str, tuple[int, int]]) -> None:
    """Compile all launches; ``accesses``: bytes that a program loads and stores in 128-bit accesses, by kernel."""
    assert {launch.kernel.__name__ for launch in launches} == set(accesses)
    for launch in launches:
        name = launch.kernel.__name__
        for architecture in ARCHITECTURES:
            compiled = compile_for(launch, architecture)
            per_thread = launch.warps * 32 * 16
            print(f"{name} {launch.constants} sm_{architecture}: {compiled.registers} registers")
            assert ".local" not in compiled.assembly, name
            (spills,) = re.findall(SPILLS, compiled.report)
            assert max(map(int, spills)) <= MOST_SPILLED.get(name, 0), name
            assert compiled.loads == accesses[name][0] // per_thread, name
            assert compiled.stores == accesses[name][1] // per_thread, name
            if name in MOST_REGISTERS:
                assert compiled.registers <= MOST_REGISTERS[name], name
                assert compiled.layouts_changed == 0, name
                assert not re.search(r"\b(st\.shared|ld\.shared|ldmatrix|bar\.sync)\b", compiled.assembly), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_weights(dtype: torch.dtype, launches: list[Launch]) -> None:
    clip_weights.clip_weights_([torch.zeros(9000, dtype=dtype)], -0.01, 0.01)
    chunk = launches[0].constants[-1] * dtype.itemsize
    check(launches, {"clip_kernel": (chunk, chunk)})


@pytest.mark.parametrize("dtype", DTYPES)
def test_interpolate(dtype: torch.dtype, launches: list[Launch]) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for shape in ((8, 3, 64, 64), (64, 784)):
        images = torch.zeros(shape, dtype=dtype)
        interpolate.interpolate(images, images, torch.zeros(shape[0], dtype=wide))
    tile = launches[0].constants[-1] * launches[0].constants[-2] * dtype.itemsize
    check(launches, {"interpolate_kernel": (2 * tile, tile)})


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [
        *((activation, torch.float32) for activation in ACTIVATIONS),
        *((activation, dtype) for activation in ("gelu", "mish") for dtype in DTYPES if dtype != torch.float32),
    ],
)
def test_activation_double_backward(activation: str, dtype: torch.dtype, launches: list[Launch]) -> None:
    x, options = torch.zeros(9000, dtype=dtype), (1.0,) * len(ACTIVATIONS[activation])
    compute = activation_double_backward.activation_double_backward
    compute(x, x, x, activation=activation, options=options, needed=(True, True))
    block = launches[0].constants[-1] * dtype.itemsize
    check(launches, {"activation_double_backward_kernel": (3 * block, 2 * block)})


def differentiate_norm(shape: tuple[int, ...], groups: int, dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, of_rows = torch.zeros(shape, dtype=dtype), torch.zeros(shape[0] * groups, dtype=wide)
    weight, needed = torch.zeros(shape[1], dtype=wide), (True, True, True)
    norm_double_backward.norm_double_backward(x, of_rows, of_rows, weight, x, x, num_groups=groups, needed=needed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "groups"), [((4096, 512), 1), ((64, 4096), 1), ((32, 64, 16, 16), 8)])
def test_norm_of_rows_in_registers(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype, launches: list[Launch]
) -> None:
    if dtype == torch.float64 and shape[1] == 4096:
        shape = (64, 2048)  # the longest rows in registers are half as long
    differentiate_norm(shape, groups, dtype)
    columns, wide = launches[0].constants[-1], 8 if dtype == torch.float64 else 4
    tile = launches[0].constants[-2] * columns * dtype.itemsize
    total = launches[1].constants[-1] * wide
    # And a weight per column, read and its gradient written once by a program.
    once = columns * wide
    check(launches, {"norm_rows_kernel": (3 * tile + once, 2 * tile + once), "norm_total_kernel": (total, total)})


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_split_rows(dtype: torch.dtype, launches: list[Launch]) -> None:
    differentiate_norm((32, 65536), 1, dtype)
    step, wide = launches[0].constants[-1], 8 if dtype == torch.float64 else 4
    block, total = step * dtype.itemsize, launches[2].constants[-1] * wide
    accesses = {
        "norm_split_sums_kernel": (3 * block + step * wide, 0),
        "norm_split_results_kernel": (3 * block + step * wide, 2 * block + step * wide),
        "norm_total_kernel": (total, total),
    }
    check(launches, accesses)


OPTIONS: dict[str, Any] = {
    "target": 1.0,
    "one_sided": True,
    "weight": 10.0,
    "reduction": "mean",
    "with_slope": True,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 3, 64, 64), (256, 784), (64, 16)])
def test_penalty_of_rows_in_registers(dtype: torch.dtype, shape: tuple[int, ...], launches: list[Launch]) -> None:
    gradient_norm_penalty.gradient_norm_penalty(torch.zeros(shape, dtype=dtype), **OPTIONS)
    tile = launches[0].constants[-1] * launches[0].constants[-2] * dtype.itemsize
    accesses = {"rows_kernel": (tile, tile)}
    if len(launches) > 1:
        accesses["total_kernel"] = (0, 0)  # a few kilobytes
        launches[1:] = [launch for launch in launches[1:] if launch.kernel.__name__ == "total_kernel"]
    check(launches, accesses)


@pytest.mark.parametrize("dtype", DTYPES)
def test_penalty_of_two_dimensional_points(dtype: torch.dtype, launches: list[Launch]) -> None:
    gradient_norm_penalty.gradient_norm_penalty(torch.zeros(256, 2, dtype=dtype), **OPTIONS)
    tile = launches[0].constants[-1] * launches[0].constants[-2] * dtype.itemsize
    wide = tile if dtype == torch.float64 else 0  # 16 bytes a point, and less in the other types
    check(launches, {"rows_kernel": (wide, wide)})


@pytest.mark.parametrize("dtype", DTYPES)
def test_penalty_of_split_rows(dtype: torch.dtype, launches: list[Launch]) -> None:
    gradient_norm_penalty.gradient_norm_penalty(torch.zeros(4, 3, 128, 128, dtype=dtype), **OPTIONS)
    step = gradient_norm_penalty.STEP * dtype.itemsize
    check(launches, {"split_squares_kernel": (step, 0), "split_slope_kernel": (step, step)})


STEP_DTYPES = [(dtype, variant) for dtype in DTYPES for variant in ("plain", "all")]


@pytest.mark.parametrize(("dtype", "variant"), STEP_DTYPES)
def test_rmsprop(dtype: torch.dtype, variant: str, launches: list[Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    everything = variant == "all"
    monkeypatch.setattr(optimizer_step, "on_device", lambda tensor: everything)
    column = [torch.zeros(9000, dtype=dtype)]
    optional = column if everything else []
    options = RMSpropOptions(
        lr=torch.tensor(1e-3) if everything else 1e-3,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0.1 if everything else 0.0,
        momentum=0.5 if everything else 0.0,
        maximize=everything,
        lo=-0.01,
        hi=0.01,
    )
    optimizer_step.rmsprop_step_([column, column, column, optional, optional, [torch.zeros(())]], options)
    chunk = launches[0].constants[-1] * dtype.itemsize
    check(launches, {"rmsprop_kernel": (5 * chunk, 4 * chunk) if everything else (3 * chunk, 2 * chunk)})


@pytest.mark.parametrize(("dtype", "variant"), STEP_DTYPES)
def test_adam(dtype: torch.dtype, variant: str, launches: list[Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    everything = variant == "all"
    monkeypatch.setattr(optimizer_step, "on_device", lambda tensor: everything)
    column = [torch.zeros(9000, dtype=dtype)]
    options = AdamOptions(
        lr=torch.tensor(1e-3) if everything else 1e-3,
        beta1=0.5,
        beta2=0.9,
        eps=1e-8,
        weight_decay=0.1 if everything else 0.0,
        decoupled_weight_decay=everything,
        maximize=everything,
        lo=-0.01,
        hi=0.01,
    )
    largest = column if everything else []
    optimizer_step.adam_step_([column, column, column, column, largest, [torch.zeros(())]], options)
    chunk = launches[-1].constants[-1] * dtype.itemsize
    accesses = {"adam_kernel": (5 * chunk, 4 * chunk) if everything else (4 * chunk, 3 * chunk)}
    if everything:
        accesses["count_kernel"] = (0, 0)
    check(launches, accesses)
