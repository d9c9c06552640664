"""One run of a suite: pytest in a process of its own, and the outcome of each test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

#: The time limit of one test. Celery's own limit is 300 s.
TEST_SECONDS = 300


@dataclass(frozen=True)
class Run:
    """The outcome of each test: passed, failed or skipped."""

    title: str
    outcomes: Mapping[str, str]
    seconds: float

    def __str__(self) -> str:
        counts = Counter(self.outcomes.values())
        told = ", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "skipped"))
        return f"{self.title}: {told} in {self.seconds:.0f} s"

    def named(self, outcome: str) -> set[str]:
        """Return the tests with this outcome."""
        return {test for test, became in self.outcomes.items() if became == outcome}


def run(title: str, folder: Path, tests: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Run the tests of the folder. No failed test is rerun, whatever the tests' marks say."""
    report = folder / f"{title.split()[0]}.xml"
    began = time.monotonic()
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:rerunfailures"),
            *("-o", "python_classes=test_*", "--timeout", str(TEST_SECONDS), "-rfE"),
            *("--tb", "short", "--junitxml", str(report), *tests),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
    )
    return Run(title, _outcomes(report), time.monotonic() - began)


def _outcomes(report: Path) -> dict[str, str]:
    """Return the outcome by test; a failure wins where a report has several cases for a test."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome = "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        elif case.find("skipped") is not None:
            outcome = "skipped"
        if found.get(name) != "failed":
            found[name] = outcome
    return found
