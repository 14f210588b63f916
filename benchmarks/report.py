"""Tables and a plot, made from the CSV files alone: ``python -m benchmarks.report benchmarks/results/avx2/*.csv``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.schema import LIMIT, OF_THIS_PROCESSOR, OURS, Line, read_lines


def by_case(lines: list[Line]) -> Iterator[tuple[tuple[str, str], list[Line]]]:
    for key, group in groupby(lines, lambda line: (line["op"], line["workload"])):
        yield key, list(group)


def print_table(paths: Iterable[Path]) -> None:
    lines = read_lines(paths)
    for device, versions, date in sorted({(line["device"], line["versions"], line["date"]) for line in lines}):
        Console(width=120).print(f"{device}; {versions}; {date}", style="dim", highlight=False)
    table = Table("operation", "workload", "provider", width=118)
    for name in ("median us", "p20", "p80", "we are faster by", "of the limit"):
        table.add_column(name, justify="right")
    for (op, workload), group in by_case(lines):
        for i, line in enumerate(group):
            fraction = float(line["fraction_of_limit"])
            ours = line["provider"] == OURS
            table.add_row(
                op if i == 0 else "",
                workload if i == 0 else "",
                line["provider"],
                line["median"],
                line["p20"],
                line["p80"],
                "" if ours else f"{float(line['ratio']):.2f}x",
                "" if math.isnan(fraction) else f"{fraction:.0%}",
                style="bold" if ours else None,
                end_section=i == len(group) - 1,
            )
    Console(width=120).print(table)


def plot(paths: Iterable[Path], target: Path) -> None:
    """One bar a provider and case: how many times our time it takes; gray for other settings of our own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (f"{op}\n{workload}", line["provider"], float(line["ratio"]))
        for (op, workload), group in by_case(read_lines(paths))
        for line in group
        if line["provider"] not in (OURS, LIMIT)
    ]
    figure, axes = pyplot.subplots(figsize=(9, 0.22 * len(bars) + 1))
    labels = [f"{case}  |  {provider}".replace("\n", ", ") for case, provider, _ in bars]
    colors = [
        "tab:gray" if provider.startswith(OURS) else "tab:blue" if ratio >= 1 else "tab:red"
        for _, provider, ratio in bars
    ]
    drawn = axes.barh(range(len(bars)), [ratio for *_, ratio in bars], color=colors)
    axes.set_yticks(range(len(bars)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("their median / ours (above 1: we are faster)")
    axes.margins(x=0.1, y=0.005)
    axes.bar_label(drawn, fmt="%.2f", fontsize=7, padding=2)
    figure.tight_layout()
    figure.savefig(target, dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", nargs="*", type=Path, help="CSV files; all of this processor when absent")
    chosen = parser.parse_args().csv or sorted(OF_THIS_PROCESSOR.glob("*.csv"))
    print_table(chosen)
    plot(chosen, chosen[0].parent / "ratios.png")
