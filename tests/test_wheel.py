"""What `make wheel` accepts as the contents of a wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from build_tools.wheel import ROOT, check_contents

SOURCES = {str(path.relative_to(ROOT)) for path in (ROOT / "wgan_fast").rglob("*.py*") if path.suffix != ".pyc"}
WHOLE = {
    *SOURCES,
    "wgan_fast/py.typed",
    "wgan_fast/cli/published.json",
    "wgan_fast/_cpu.cpython-311-x86_64-linux-gnu.so",
    "wgan_fast-0.1.0.dist-info/METADATA",
}


def made(folder: Path, names: set[str]) -> Path:
    wheel = folder / "wgan_fast-0.1.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return wheel


def test_the_package_its_types_data_and_kernels_are_accepted(tmp_path: Path) -> None:
    assert check_contents(made(tmp_path, WHOLE)) is None


@pytest.mark.parametrize("stray", ["tests/test_ops.py", "benchmarks/common.py", "setup.py", "wgan_fast/csrc/rules.h"])
def test_what_is_not_the_package_is_refused(stray: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=stray):
        check_contents(made(tmp_path, WHOLE | {stray}))


@pytest.mark.parametrize("part", ["wgan_fast/py.typed", "wgan_fast/cli/published.json", "wgan_fast/training/config.py"])
def test_a_missing_part_is_named(part: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=part):
        check_contents(made(tmp_path, WHOLE - {part}))


def test_a_wheel_without_compiled_kernels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="kernels"):
        check_contents(made(tmp_path, {name for name in WHOLE if not name.endswith(".so")}))
