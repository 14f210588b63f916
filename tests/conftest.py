"""Fixtures that every test of an operation shares: the backends to compare, guarded memory, a fixed seed.

And the skips of tests that need a package of the extras where it is not installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator

import pytest
import torch
from torch import Tensor

from wgan_fast import available_backends
from wgan_fast.double_backward import least_work

CPU_BACKENDS = [
    name for name, status in available_backends().items() if status.available and name in ("cpu", "reference")
]

# What the extras bring, that is not installed here. Decided before any test hides a package.
OPTIONAL = ("matplotlib", "ot", "PIL", "rich", "sklearn", "tensorboard", "torchmetrics", "yaml")
ABSENT = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    for mark in item.iter_markers("needs"):
        _skip_without(*mark.args)
    yield from _skipping_for_the_absent()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    yield from _skipping_for_the_absent()


def _skipping_for_the_absent() -> Generator[None, None, None]:
    """A test that ends because it, or what it calls, imports an absent package is skipped and not failed.

    wgan_fast raises its own error from the ImportError. That training needs none of these is test_dependencies' to say.
    """
    try:
        yield
    except Exception as error:
        missing = error if isinstance(error, ImportError) else error.__cause__
        if isinstance(missing, ImportError) and missing.name:
            _skip_without(missing.name.partition(".")[0])
        raise


def _skip_without(*packages: str) -> None:
    for package in packages:
        if package in ABSENT:
            pytest.skip(f"needs {package}")  # the extras are optional, and so is a test of what they add


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20170701)


@pytest.fixture(autouse=True)
def _tiny_critics_take_the_quick_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' critics are small, and are to be served as large ones are; test_least_work tests the choice."""
    monkeypatch.setattr(least_work, "SHORTCUT", 0)
    monkeypatch.setattr(least_work, "ONE_PASS", 0)


@pytest.fixture
def traced_gradients() -> Iterator[None]:
    """torch.compile takes what calls autograd inside, and requires_grad_() for that."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        # No feature to ask for was found: Dynamo refuses the call only while it traces it.
        pytest.skip("torch before 2.13 does not compile requires_grad_()")
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield
    torch._dynamo.reset()


@pytest.fixture(params=CPU_BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that takes CPU tensors; the reference too, so that the tests themselves are tested."""
    return str(request.param)


@pytest.fixture
def guarded_allocations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tensor that torch.empty or torch.empty_like hands out starts as NaN, between margins that must not change.

    A kernel that leaves an output unwritten shows NaN; one that writes outside changes a margin, which fails the test.
    """
    margin, mark, buffers = 64, 12345.0, []
    plain_empty, plain_empty_like = torch.empty, torch.empty_like

    def guard(like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return like
        buffer = plain_empty(like.numel() + 2 * margin, dtype=like.dtype).fill_(mark)
        buffers.append((buffer, like.numel()))
        inside = buffer[margin : margin + like.numel()].fill_(torch.nan)
        return inside.as_strided(like.shape, like.stride(), inside.storage_offset())

    monkeypatch.setattr(torch, "empty", lambda *size, **options: guard(plain_empty(*size, **options)))
    monkeypatch.setattr(torch, "empty_like", lambda like, **options: guard(plain_empty_like(like, **options)))
    yield
    monkeypatch.undo()
    for buffer, size in buffers:
        expected = plain_empty(margin, dtype=buffer.dtype).fill_(mark)
        assert torch.equal(buffer[:margin], expected), "written before the start of an output"
        assert torch.equal(buffer[margin + size :], expected), "written past the end of an output"
