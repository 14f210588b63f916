"""A pytest plugin: ``-p benchmarks.gpu_junit --junit-as-it-goes FILE`` writes JUnit XML anew as tests end.

pytest's own ``--junit-xml`` is written at the end of a run, and not at all where the run is killed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

SECONDS = float(os.environ.get("JUNIT_SECONDS", "2"))
"""The least time between two writes but the last."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--junit-as-it-goes", type=Path, metavar="FILE", help="JUnit XML, written anew as tests end")


def pytest_configure(config: pytest.Config) -> None:
    path: Path | None = config.getoption("--junit-as-it-goes")
    if path is not None and not hasattr(config, "workerinput"):  # workers of xdist report to the process that has it
        config.pluginmanager.register(JUnit(path))


class JUnit:
    def __init__(self, path: Path) -> None:
        self.path, self.written = path, 0.0
        self.suite = ElementTree.Element("testsuite", name="pytest")
        self.counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        file, _, name = report.nodeid.partition("::")
        case = ElementTree.SubElement(self.suite, "testcase", classname=file, name=name, time=f"{report.duration:.3f}")
        self.counts["tests"] += 1
        if not report.passed:
            kind = "skipped" if report.skipped else "failure" if report.when == "call" else "error"
            self.counts[kind if kind == "skipped" else f"{kind}s"] += 1
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            ElementTree.SubElement(
                case, kind, message=text.strip().splitlines()[-1] if text.strip() else ""
            ).text = text
        if time.monotonic() - self.written > SECONDS:
            self.write()

    def pytest_sessionfinish(self) -> None:
        self.write()

    def write(self) -> None:
        self.suite.attrib.update({key: str(value) for key, value in self.counts.items()})
        unfinished = self.path.with_suffix(".tmp")
        ElementTree.ElementTree(self.suite).write(unfinished, encoding="utf-8", xml_declaration=True)
        unfinished.replace(self.path)
        self.written = time.monotonic()
