"""``python -m benchmarks``: every benchmark in a process of its own, then a plot from their CSV files."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.report import plot
from benchmarks.schema import OF_THIS_PROCESSOR

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rounds", type=int, default=51, help="interleaved rounds of every case")
parser.add_argument("--out", type=Path, default=OF_THIS_PROCESSOR, help="folder of the CSV files and the plot")
options = parser.parse_args()

names = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
arguments = ["--rounds", str(options.rounds), "--out", str(options.out)]
commands = {name: [sys.executable, "-m", f"benchmarks.bench_{name}", *arguments] for name in names}
failed = [name for name, command in commands.items() if subprocess.run(command, check=False).returncode]
written = [options.out / f"{name}.csv" for name in names if name not in failed]
plot(written, options.out / "ratios.png")
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
