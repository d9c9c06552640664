"""Measure what one job costs in MongoDB commands and CPU, by phase: ``python bench/costs.py``.

For each phase of a run, the server's commands (``serverStatus``) and the CPU time of each part of
``taskyard up`` are counted. The idle load is subtracted, and the rest divided by the jobs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import cpu_seconds, print_table, wait_until
from bench.ours import taskyard
from bench.side import Side

IDLE_SECONDS = 10.0

#: Commands that are not counted: the driver's own, and this benchmark's.
_NOT_OURS = {
    "hello",
    "isMaster",
    "ping",
    "serverStatus",
    "saslStart",
    "saslContinue",
    "endSessions",
}

Counts = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The counters at one moment."""

    seconds: float
    commands: Counts
    cpu_ms: Counts


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The counters' increase over one phase."""

    name: str
    jobs: int
    seconds: float
    commands: Counts
    cpu_ms: Counts


def main() -> None:
    """Measure and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--jobs", type=int, default=200, help="a phase")
    arguments.add_argument("--singles", type=int, default=50, help="one at a time")
    wanted = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, taskyard(Path(folder)) as side:
        uri = (Path(folder) / "data" / "uri").read_text().split()[1]
        with MongoClient[dict[str, Any]](uri) as server:
            phases = _measure(side, lambda: _read(side, server), wanted.jobs, wanted.singles)
    idle, *others = phases
    _print("database commands a job", others, idle, lambda p: p.commands)
    _print("CPU ms a job", others, idle, lambda p: p.cpu_ms)


def _measure(side: Side, read: Callable[[], Reading], jobs: int, singles: int) -> list[Phase]:
    client, phases = side.connect(), list[Phase]()

    @contextlib.contextmanager
    def phase(name: str, count: int) -> Iterator[None]:
        before = read()
        yield
        phases.append(_between(name, count, before, read()))

    for _ in range(20):
        client.output(client.submit())
    with phase("idle", 1):
        time.sleep(IDLE_SECONDS)
    with side.held(), phase("submit", jobs):
        for _ in range(jobs):
            client.submit()
        # The phase ends before held() does: what the resumed agent does is not counted as submit.
    with phase("drain", jobs):
        wait_until(side.is_drained, "the jobs are over", 0.25)
    with phase("one at a time", singles):
        for number in range(singles):
            time.sleep(0.02 + 0.002 * (number % 17))
            client.output(client.submit())
    return phases


def _read(side: Side, server: MongoClient[dict[str, Any]]) -> Reading:
    commands = server.admin.command("serverStatus")["metrics"]["commands"]
    return Reading(
        seconds=time.monotonic(),
        commands={
            name: float(counted["total"])
            for name, counted in commands.items()
            if isinstance(counted, dict) and "total" in counted and name not in _NOT_OURS
        },
        cpu_ms={kind: cpu_seconds(processes) * 1000 for kind, processes in side.processes.items()},
    )


def _between(name: str, jobs: int, before: Reading, after: Reading) -> Phase:
    return Phase(
        name=name,
        jobs=jobs,
        seconds=after.seconds - before.seconds,
        commands={k: v - before.commands.get(k, 0) for k, v in after.commands.items()},
        cpu_ms={k: v - before.cpu_ms[k] for k, v in after.cpu_ms.items()},
    )


def _print(title: str, phases: list[Phase], idle: Phase, counts: Callable[[Phase], Counts]) -> None:
    names = sorted(
        {name for phase in [idle, *phases] for name, count in counts(phase).items() if count}
    )
    rates = {name: counts(idle).get(name, 0) / idle.seconds for name in names}
    columns = [
        [(counts(p).get(name, 0) - rates[name] * p.seconds) / p.jobs for name in names]
        for p in phases
    ]
    columns.insert(0, list(rates.values()))
    rows = [[name, *(column[row] for column in columns)] for row, name in enumerate(names)]
    rows.append(["sum", *(sum(column) for column in columns)])
    print()
    print_table([title, "idle, a second", *(phase.name for phase in phases)], rows)
    print(f"seconds: {', '.join(f'{p.name} {p.seconds:.1f}' for p in phases)}")


if __name__ == "__main__":
    main()
