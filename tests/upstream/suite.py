"""One run of a suite: pytest in a process of its own, and what became of each test."""

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

#: For one test. Celery's own limit is 300 s.
TEST_SECONDS = 300


@dataclass(frozen=True)
class Run:
    """What became of each test: passed, failed or skipped."""

    title: str
    outcomes: Mapping[str, str]
    seconds: float

    def __str__(self) -> str:
        counts = Counter(self.outcomes.values())
        told = ", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "skipped"))
        return f"{self.title}: {told} in {self.seconds:.0f} s"

    def named(self, outcome: str) -> set[str]:
        """The tests that ended so."""
        return {test for test, became in self.outcomes.items() if became == outcome}


def run(title: str, folder: Path, tests: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Run the tests of the folder. Nothing is run again, whatever their marks say."""
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
    """By test; the worst of it when its set-up, its call and its subtests are told apart."""
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
