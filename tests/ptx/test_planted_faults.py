"""Every check finds the fault that it is there for: in kernels of a few lines, and in the package's own."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from interpreted_cuda import Runtime
from interpreter import Allocation, Fault, Module, UnknownPtx
from operation_memory import apart

KERNEL = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry kernel(.param .u64 kernel_param_0, .param .u32 kernel_param_1)
{
    .reg .pred %p<4>;
    .reg .b16 %rs<2>;
    .reg .b32 %r<12>;
    .reg .b64 %rd<4>;
    .shared .align 16 .b8 exchanged[256];
    ld.param.u64 %rd1, [kernel_param_0];
    ld.param.u32 %r1, [kernel_param_1];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, exchanged;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd1, %rd1, %rd2;
    shl.b32 %r4, %r2, 2;
    add.s32 %r5, %r3, %r4;
    xor.b32 %r6, %r4, 128;
    add.s32 %r7, %r3, %r6;
BODY
    ret;
}
"""
# Each thread hands its number to the one 32 further, and stores what it gets.
EXCHANGE = """
    st.shared.u32 [%r5], %r2;
    bar.sync 0;
    ld.shared.u32 %r8, [%r7];
    st.global.u32 [%rd1], %r8;
"""
# The same with the next one of the warp, twice: what was read may be overwritten once the warp has met again.
WARP_EXCHANGE = """
    xor.b32 %r6, %r4, 4;
    add.s32 %r7, %r3, %r6;
    st.shared.u32 [%r5], 0;
    bar.warp.sync -1;
    ld.shared.u32 %r8, [%r7];
    bar.warp.sync -1;
    st.shared.u32 [%r5], %r2;
    bar.warp.sync 0xffffffff;
    ld.shared.u32 %r8, [%r7];
    st.global.u32 [%rd1], %r8;
"""
# Thread 0 writes, its whole warp reads, and the last of the warp writes.
WARP_BROADCAST = """
    setp.eq.u32 %p1, %r2, 0;
    @%p1 st.shared.u32 [%r3], 5;
    bar.warp.sync -1;
    setp.lt.u32 %p2, %r2, 32;
    @%p2 ld.shared.u32 %r8, [%r3];
    bar.warp.sync -1;
    setp.eq.u32 %p3, %r2, 31;
    @%p3 st.shared.u32 [%r3], %r8;
    st.global.u32 [%rd1], %r2;
"""


def run(body: str, elements: int = 64, threads: int = 64) -> np.ndarray:
    out = np.full(elements + 64, 7, np.uint32)[:elements]
    kernel = Module(KERNEL.replace("BODY", body)).kernel("kernel")
    allocation = Allocation("out", out.ctypes.data, out.nbytes)
    kernel.launch(1, threads, kernel.pack([out.ctypes.data, 64]), [allocation])
    return out


def test_the_kernel_without_a_fault_is_right() -> None:
    assert run(EXCHANGE).tolist() == [i ^ 32 for i in range(64)]
    assert run(WARP_EXCHANGE).tolist() == [i ^ 1 for i in range(64)]
    assert run(WARP_BROADCAST).tolist() == list(range(64))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (EXCHANGE.replace("[%rd1]", "[%rd1+4]"), r"write 4 bytes past the end of out, 1 lane: st\.global"),
        (EXCHANGE.replace("[%rd1]", "[%rd1+-8]"), r"write 8 bytes before the start of out, 2 lanes: st\.global"),
        ("ld.global.v4.u32 {%r8, %r9, %r10, %r11}, [%rd1];", r"16-byte read at a misaligned address in out, 48 lanes"),
        (
            EXCHANGE.replace("bar.sync 0;", ""),
            r"race in shared memory, \d+ lanes: block 0 thread \d+ at: ld\.shared.* already written by block 0 "
            r"thread \d+ without a barrier between, at: st\.shared",
        ),
        (EXCHANGE + "st.shared.u32 [%r5], %r8;", r"race in shared memory.*already read by block 0 thread"),
        (
            WARP_EXCHANGE.replace("bar.warp.sync -1;", "", 1),
            r"race in shared memory, 64 lanes: block 0 thread 0 at: ld\.shared.* already written by block 0 thread 1 ",
        ),
        (
            WARP_EXCHANGE.replace("bar.warp.sync 0xffffffff;", ""),
            r"race in shared memory, 64 lanes: block 0 thread 0 at: ld\.shared.* already written by block 0 thread 1 ",
        ),
        (
            "".join(WARP_EXCHANGE.rsplit("bar.warp.sync -1;", 1)),
            r"race in shared memory, 64 lanes: block 0 thread 0 at: st\.shared.* already read by block 0 thread 1 ",
        ),
        (
            "".join(WARP_BROADCAST.rsplit("bar.warp.sync -1;", 1)),
            r"race in shared memory, 1 lanes: block 0 thread 31 at: .*st\.shared.* already read by several threads ",
        ),
        # A barrier of warps orders nothing between them.
        (
            EXCHANGE.replace("bar.sync 0;", "bar.warp.sync -1;"),
            r"race in shared memory, 64 lanes:.* already written by",
        ),
        (
            WARP_BROADCAST.replace("bar.warp.sync -1;", "bar.sync 0;", 1).replace("%r2, 32;", "%r2, 40;"),
            r"race in shared memory, 1 lanes: block 0 thread 31 at: .*st\.shared.* already read by several threads ",
        ),
        ("st.global.u32 [%rd1], %r2; ld.global.u32 %r8, [%rd1+-4];", "read 4 bytes before the start of out"),
        (
            "setp.gt.u32 %p1, %r2, 0; st.global.u32 [%rd1], %r2; @%p1 ld.global.u32 %r8, [%rd1+-4];",
            r"race in global memory.*already written by block 0 thread 0",
        ),
        ("ld.param.u64 %rd3, [kernel_param_0]; st.global.u32 [%rd3], %r2;", "race: different values stored"),
        ("ld.shared.u32 %r8, [%r5];", r"read of uninitialised values in shared memory, 64 lanes: ld\.shared"),
        ("st.shared.u32 [%r5+4], %r2;", r"write 4 bytes past the end of shared memory, 1 lane: st\.shared"),
        (
            "setp.lt.u32 %p1, %r2, 40; @%p1 bra $WAIT; bra.uni $END; $WAIT: bar.sync 0; $END:",
            r"barrier that 40 of 64 threads of block 0 reach: bar\.sync 0",
        ),
        (
            "setp.lt.u32 %p1, %r2, 40; @%p1 bra $WAIT; bra.uni $END; "
            "$WAIT: shfl.sync.bfly.b32 %r8, %r2, 1, 31, -1; $END:",
            "shfl that lanes named in its mask never reach, 8 lanes wait",
        ),
        (
            "setp.lt.u32 %p1, %r2, 40; @%p1 bra $WAIT; bra.uni $END; $WAIT: bar.warp.sync -1; $END:",
            r"bar that lanes named in its mask never reach, 8 lanes wait: bar\.warp\.sync -1",
        ),
        (
            "shfl.sync.idx.b32 %r8, %r2, 20, 31, 65535;",
            "shfl that lanes named in its mask never reach|shuffle with lanes that take no part",
        ),
        ("$AGAIN: bra.uni $AGAIN;", "no end after"),
    ],
)
def test_a_fault_is_reported(body: str, message: str) -> None:
    with pytest.raises(Fault, match=message):
        run(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("atom.global.add.u32 %r8, [%rd1], 1;", "unknown instruction atom"),
        ("add.sat.s32 %r8, %r2, 1;", r"unknown modifier \.sat of add"),
        ("bar.sync 1;", "unknown form of bar"),
        ("bar.warp.sync 65535;", "unknown form of bar"),
    ],
)
def test_what_is_not_known_is_named(body: str, message: str) -> None:
    with pytest.raises(UnknownPtx, match=message):
        run(body)


def test_threads_that_part_meet_again() -> None:
    body = """
    setp.lt.u32 %p1, %r2, 40;
    @%p1 bra $LOW;
    mov.u32 %r8, 1000;
    bra.uni $JOIN;
    $LOW: mov.u32 %r8, 0;
    $COUNT: add.u32 %r8, %r8, 1;
    setp.le.u32 %p2, %r8, %r2;
    @%p2 bra $COUNT;
    $JOIN: bar.sync 0;
    st.global.u32 [%rd1], %r8;
    """
    assert run(body).tolist() == [i + 1 if i < 40 else 1000 for i in range(64)]


def test_a_group_is_not_changed_by_the_predicate_it_was_made_from() -> None:
    body = """
    setp.lt.u32 %p1, %r2, 40;
    @%p1 bra $LOW;
    mov.u32 %r8, 2;
    bra.uni $JOIN;
    $LOW: setp.lt.u32 %p1, %r2, 8;
    mov.u32 %r8, 1;
    $JOIN: st.global.u32 [%rd1], %r8;
    """
    assert run(body).tolist() == [1] * 40 + [2] * 24


def test_a_kernel_that_was_compiled_for_one_batch_is_found_with_another(
    triton_on_host: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the package once had it: Triton takes a batch of 64 for one that is a multiple of 16, always."""
    import triton

    from wgan_fast.backends.triton import interpolate

    pointers = ["real", "fake", "alpha", "out"]
    specialised = triton.jit(do_not_specialize=pointers)(interpolate.interpolate_kernel.fn)
    monkeypatch.setattr(interpolate, "interpolate_kernel", specialised)
    for batch, faulty in ((64, False), (62, True)):
        real, fake, alpha = apart(torch.randn(batch, 784)), apart(torch.randn(batch, 784)), torch.rand(batch)
        if faulty:
            with pytest.raises(RuntimeError, match="read 3136 bytes past the end of real, 196 lanes"):
                triton_on_host.interpolate(real, fake, alpha)
        else:
            triton_on_host.interpolate(real, fake, alpha)


@pytest.mark.parametrize(
    ("text", "replacement", "message"),
    [
        ("bar.sync \t0;", "", "race in shared memory"),
        ("st.shared.f32 ", "abs.f32 %f1, %f1; //", "read of uninitialised values in shared memory"),
    ],
)
def test_the_cuda_penalty_with_a_fault_is_found(
    text: str, replacement: str, message: str, cuda_on_host: ModuleType, cuda_runtime: Runtime
) -> None:
    options = {"target": 1.0, "one_sided": False, "weight": 10.0, "reduction": "mean", "with_slope": True}
    gradients = torch.randn(3, 784)
    with cuda_runtime.planted(text, replacement), pytest.raises(RuntimeError, match=message):
        cuda_on_host.gradient_norm_penalty(gradients, **options)
    cuda_on_host.gradient_norm_penalty(gradients, **options)  # and without it not


def test_an_off_by_one_in_the_cuda_interpolation_is_found(cuda_on_host: ModuleType, cuda_runtime: Runtime) -> None:
    real, fake, alpha = apart(torch.randn(5, 784)), apart(torch.randn(5, 784)), torch.rand(5)
    message = "(read|write) [0-9]+ bytes past the end of (real|fake)"
    with cuda_runtime.planted("setp.ge.s64", "setp.gt.s64"), pytest.raises(RuntimeError, match=message):
        cuda_on_host.interpolate(real, fake, alpha)


def test_misaligned_vectors_in_the_cuda_clamp_are_found(cuda_on_host: ModuleType, cuda_runtime: Runtime) -> None:
    weight = torch.randn(5000)[1:]
    message = "16-byte read at a misaligned address in tensors"
    with cuda_runtime.planted(", 15;", ", 3;"), pytest.raises(RuntimeError, match=message):
        cuda_on_host.clip_weights_([weight], -0.5, 0.5)
