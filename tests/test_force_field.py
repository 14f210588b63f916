"""examples/force_field.py runs, learns, and gets the same numbers with and without the context."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "force_field.py"


def test_the_example_learns_and_both_ways_agree() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE), "--smoke"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (before,) = re.findall(r"error before training (\S+)", done.stdout)
    after = [float(error) for error in re.findall(r"force error (\S+)", done.stdout)]
    (difference,) = re.findall(r"equal to (\S+) of themselves", done.stdout)
    assert len(after) == 2
    assert max(after) < 0.7 * float(before)
    assert float(difference) < 1e-3
