"""Every example runs from start to end with --smoke: in this process, which has imported torch, unless it needs one."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
FRAMEWORKS = ["accelerate_ddp", "lightning_wgan_gp"]  # these set up a whole process
NAMES = sorted({path.stem for path in EXAMPLES.glob("*.py")} - {"force_field", *FRAMEWORKS})


@pytest.fixture(autouse=True)
def _tiny_critics_take_the_quick_ways() -> None:
    """Shadows the fixture of the other tests: an example runs as it does for a user."""


def run(*command: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """What an example prints."""

    def run_here(name: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--smoke"])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run_here


def skip_without_what_it_needs(name: str) -> None:
    """The examples are for an installation with the extra "examples"; each package that one imports may be absent."""
    for node in ast.walk(ast.parse((EXAMPLES / f"{name}.py").read_text())):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for package in {module.partition(".")[0] for module in modules}:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"the example needs {package}")


@pytest.mark.parametrize("name", NAMES)
def test_smoke(name: str, printed: Callable[[str], str]) -> None:
    skip_without_what_it_needs(name)
    assert printed(name).strip()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_smoke_in_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    skip_without_what_it_needs(name)
    assert run(str(EXAMPLES / f"{name}.py"), "--smoke", folder=tmp_path).strip()


def test_force_field_learns_and_both_ways_agree(printed: Callable[[str], str]) -> None:
    text = printed("force_field")
    (before,) = re.findall(r"error before training (\S+)", text)
    after = [float(error) for error in re.findall(r"force error (\S+)", text)]
    (difference,) = re.findall(r"equal to (\S+) of themselves", text)
    assert len(after) == 2
    assert max(after) < 0.7 * float(before)
    assert float(difference) < 1e-3


def test_two_processes_share_the_accelerate_example(tmp_path: Path) -> None:
    skip_without_what_it_needs("accelerate_ddp")
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    assert "2 processes" in run(*launcher, str(EXAMPLES / "accelerate_ddp.py"), "--smoke", folder=tmp_path)
