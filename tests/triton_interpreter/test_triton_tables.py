"""What the Triton launchers keep between calls: tables of addresses and compiled kernels; what a capture forbids."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from samples import assert_same_bits

import wgan_fast
from wgan_fast import backends
from wgan_fast.backends.triton import launching, multi_tensor, optimizer_step
from wgan_fast.backends.triton.clip_weights import clip_weights_


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    multi_tensor._tables.cache_clear()
    monkeypatch.setattr(multi_tensor, "_captured", [])
    monkeypatch.setattr(multi_tensor, "_reserve", multi_tensor.PinnedReserve())
    monkeypatch.setattr(launching, "_compiled", {})


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a table that was built."""
    counted: list[int] = []
    honest = multi_tensor.chunk_rows

    def counting(*arguments: Any) -> torch.Tensor:
        counted.append(1)
        return honest(*arguments)

    monkeypatch.setattr(multi_tensor, "chunk_rows", counting)
    return counted


def test_the_backend_serves_cpu_tensors_here_when_asked_for_by_name() -> None:
    assert wgan_fast.available_backends()["triton"] == (True, "")
    assert backends.choose("cpu", "triton").__name__ == "wgan_fast.backends.triton.launchers"
    assert backends.choose("cpu", "auto").__name__ != "wgan_fast.backends.triton.launchers"
    with pytest.raises(RuntimeError, match="backend='triton' cannot serve cuda tensors: it takes tensors on cpu only"):
        backends.choose("cuda", "triton")


def test_a_table_is_built_once_for_the_same_tensors_and_anew_for_others(builds: list[int]) -> None:
    tensors = [torch.randn(100), torch.randn(7)]
    for _ in range(3):
        clip_weights_(tensors, -0.1, 0.1)
    assert len(builds) == 1
    moved = [tensors[0], torch.randn(7)]
    clip_weights_(moved, -0.1, 0.1)
    clip_weights_([tensors[0][:50], moved[1]], -0.1, 0.1)
    assert len(builds) == 3
    assert moved[1].abs().max() <= 0.1


def test_a_tensor_that_has_changed_under_its_name_is_seen(builds: list[int]) -> None:
    """Other memory, then at one address another dtype, another size, and a layout that a kernel cannot walk over."""
    weight, moved = torch.full((64,), 3.0), torch.full((64,), 3.0)
    first = weight.data_ptr()
    assert clip_weights_([weight], -0.5, 0.5) == []
    weight.data = moved
    assert clip_weights_([weight], -0.5, 0.5) == []
    assert (moved == 0.5).all()
    assert weight.data_ptr() != first
    weight.data = moved.fill_(3.0).view(torch.bfloat16)
    assert clip_weights_([weight], -0.25, 0.25) == []
    assert (weight == torch.full((64,), 3.0).view(torch.bfloat16).clamp(-0.25, 0.25)).all()
    weight.data = moved.fill_(3.0)[:32]
    assert clip_weights_([weight], -0.5, 0.5) == []
    assert moved.tolist() == [0.5] * 32 + [3.0] * 32
    assert len(builds) == 4
    weight.data = moved[::2]
    assert clip_weights_([weight], -0.1, 0.1) == [0]
    assert moved.tolist() == [0.5] * 32 + [3.0] * 32


def test_the_oldest_table_goes_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch, builds: list[int]) -> None:
    monkeypatch.setattr(multi_tensor, "_tables", functools.lru_cache(maxsize=2)(multi_tensor._tables.__wrapped__))
    first, second, third = (torch.randn(9) for _ in range(3))
    for tensor in (first, second, first, third, first):
        clip_weights_([tensor], -0.1, 0.1)
    assert len(builds) == 3
    clip_weights_([second], -0.1, 0.1)
    assert len(builds) == 4
    assert multi_tensor._tables.cache_info().currsize == 2


def test_the_rows_cover_every_element_once_and_promise_only_what_is_aligned() -> None:
    block, piece, size = 32, 20, 4
    addresses = torch.tensor([[4096, 8192], [4100, 8196], [4104, 8192], [4096, 8192], [4112, 8208]])
    sizes = torch.tensor([100, 100, 64, 0, 32])
    rows = multi_tensor.chunk_rows(addresses, sizes, size, block, piece)
    for tensor, total in enumerate(sizes.tolist()):
        mine = rows[rows[:, 1] == tensor]
        begin = (mine[:, 2:] - addresses[tensor]) // size
        assert torch.equal(begin[:, 0], begin[:, 1])
        covered = torch.cat(
            [torch.arange(b, b + abs(n)) for b, n in zip(begin[:, 0], mine[:, 0], strict=True)] or [sizes[:0]]
        )
        assert torch.equal(covered, torch.arange(total))
    promised = rows[rows[:, 0] > 0]
    assert (promised[:, 0] == block).all()
    assert (rows[:, 0] >= -piece).all()
    assert (promised[:, 2:] % 16 == 0).all()
    # Aligned; alike but off by one element (a short first chunk, then two full ones); not alike; a single chunk.
    assert [int((promised[:, 1] == tensor).sum()) for tensor in range(5)] == [3, 2, 0, 0, 1]


def test_a_capture_builds_the_table_of_tensors_not_seen_before(
    monkeypatch: pytest.MonkeyPatch, builds: list[int]
) -> None:
    """In memory that was set aside before and is held: a graph copies the table from there at every replay."""
    seen = torch.randn(50)  # alive to the end: its address must not be given to another
    clip_weights_([seen], -0.1, 0.1)
    set_aside = multi_tensor._reserve.free.data_ptr()
    monkeypatch.setattr(multi_tensor, "is_capturing", lambda device: True)
    unseen = [torch.full((50,), 3.0) for _ in range(3)]
    for tensor in unseen:
        clip_weights_([tensor], -0.1, 0.1)
        assert (tensor == 0.1).all()
    held = [table.data_ptr() for table in multi_tensor._captured]
    assert held == [set_aside + i * multi_tensor._captured[0].nbytes for i in range(3)]
    assert [int(table[0, 2]) for table in multi_tensor._captured] == [tensor.data_ptr() for tensor in unseen]


def test_a_capture_without_room_for_a_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_tensor, "_reserve", multi_tensor.PinnedReserve())
    monkeypatch.setattr(multi_tensor, "is_capturing", lambda device: True)
    unseen = torch.full((50,), 3.0)
    with pytest.raises(RuntimeError, match=r"a CUDA graph is being captured .* run the operation once"):
        clip_weights_([unseen], -0.1, 0.1)
    assert (unseen == 3).all()


def test_the_reserve_is_filled_again_outside_of_a_capture() -> None:
    reserve = multi_tensor.PinnedReserve(tables=2, least=16)
    reserve.refill(10, pin=False)
    taken = [reserve.hold(torch.full((2, 5), i)) for i in range(2)]
    with pytest.raises(RuntimeError, match="no room"):
        reserve.hold(torch.zeros(1, dtype=torch.int64))
    reserve.refill(10, pin=False)
    reserve.hold(torch.full((2, 5), 7))
    assert [table.unique().tolist() for table in taken] == [[0], [1]]


def test_a_capture_uses_a_table_that_exists_and_keeps_it(monkeypatch: pytest.MonkeyPatch, builds: list[int]) -> None:
    seen = torch.randn(50)
    clip_weights_([seen], -0.1, 0.1)
    monkeypatch.setattr(multi_tensor, "is_capturing", lambda device: True)
    seen.fill_(3.0)
    clip_weights_([seen], -0.1, 0.1)
    clip_weights_([seen], -0.1, 0.1)
    assert (seen == 0.1).all()
    assert len(builds) == len(multi_tensor._captured) == 1


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_a_capture_refuses_step_counts_on_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(9, requires_grad=True)
    weight.grad = torch.ones(9)
    optimizer = getattr(wgan_fast.optim, name)([weight], lr=0.1, backend="triton")
    optimizer.step()
    before = weight.detach().clone()
    monkeypatch.setattr(optimizer_step, "is_capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="capturable=True"):
        optimizer.step()
    assert_same_bits(weight.detach(), before)
    assert optimizer.state[weight]["step"] == 1


class FakeKernel:
    """Stands for a compiled Triton function: counts what it is asked."""

    def __init__(self, error: str = "") -> None:
        self.__name__ = "fake_kernel"
        self.runs: list[tuple[Any, ...]] = []
        self.error = error

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def start(*arguments: Any, **options: Any) -> FakeKernel:
            if self.error:
                raise ValueError(self.error)
            self.runs.append((grid, arguments, options))
            return self

        return start


def test_a_kernel_is_compiled_once_for_its_constants_and_then_held() -> None:
    kernel = FakeKernel()
    for programs, constants in ((3, (1, 16)), (5, (1, 16)), (3, (2, 16)), (0, (9, 9))):
        launching.launch(kernel, programs, 4, (torch.zeros(1), 0.5), constants)
    compile_options, held_options = {"num_warps": 4, "enable_fp_fusion": False}, {"stream": 0}
    assert [(grid[0], arguments[2:], options) for grid, arguments, options in kernel.runs] == [
        (3, (1, 16), compile_options),
        (5, (1, 16), held_options),
        (3, (2, 16), compile_options),
    ]


def test_a_failing_launch_is_a_sentence_with_the_kernels_name() -> None:
    kernel = FakeKernel(error="out of resource: shared memory")
    with pytest.raises(RuntimeError, match=r"launch fake_kernel on cpu: out of resource: shared memory"):
        launching.launch(kernel, 1, 4, (torch.zeros(1),), ())
