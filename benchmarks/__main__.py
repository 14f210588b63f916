"""``python -m benchmarks``: every benchmark in a process of its own, then a plot from their CSV files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.report import plot
from benchmarks.schema import RESULTS

names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
commands = {name: [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]] for name in names}
failed = [name for name, command in commands.items() if subprocess.run(command, check=False).returncode]
written = [RESULTS / f"{name.removeprefix('bench_')}.csv" for name in names]
plot([path for path in written if path.exists()], RESULTS / "ratios.png")
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
