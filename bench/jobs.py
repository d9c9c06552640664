"""Compare Taskyard with what a team would write instead, by ``echo hi``: ``python bench/jobs.py``.

The sides take turns. For each turn a side is started anew with a server of its own, and no other
side runs meanwhile. All sides store the output, and every output is read back.
``bench/README.md`` explains the columns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import cpu_seconds, median, peak_mb, print_table, quantile, wait_until
from bench.ours import TaskyardClient
from bench.side import COMMAND, Client, Side
from bench.sides import SIDES

CLIENTS = 4
LIST_JOBS = 1000
#: How many lists of LIST_JOBS jobs each client submits, one after the other.
LISTS = 5
LIMIT = "spawn limit"


@dataclass
class Figures:
    """The measurements of one side over all rounds."""

    idle_ms: list[float] = field(default_factory=list)
    submit_ms: list[float] = field(default_factory=list)
    submits_per_second: list[float] = field(default_factory=list)
    drained_per_second: list[float] = field(default_factory=list)
    singles_per_second: list[float] = field(default_factory=list)
    lists_per_second: list[float] = field(default_factory=list)
    listed_per_second: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    peaks_mb: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Measure and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--jobs", type=int, default=400, help="a phase")
    arguments.add_argument("--singles", type=int, default=50, help="for idle latency, a round")
    arguments.add_argument("--only", default="", help="sides, by comma")
    wanted = arguments.parse_args()
    names = wanted.only.split(",") if wanted.only else [*SIDES, LIMIT]
    figures = {name: Figures() for name in names}
    for number in range(wanted.rounds):
        for name in names:
            began = time.monotonic()
            if name == LIMIT:
                _spawn(figures[name], wanted.jobs)
            else:
                with tempfile.TemporaryDirectory() as folder, SIDES[name](Path(folder)) as side:
                    _turn(side, figures[name], wanted.jobs, wanted.singles)
            taken = time.monotonic() - began
            print(f"round {number + 1}: {name} took {taken:.0f} s", file=sys.stderr)
    _print(figures)


def _turn(side: Side, figures: Figures, jobs: int, singles: int) -> None:
    """Take all measurements of one side in one round."""
    clients = [side.connect() for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:

        def each(act: Callable[[Client, Any], Any], shares: Sequence[Any]) -> list[Any]:
            return [*pool.map(act, clients, shares)]

        counts = [jobs // CLIENTS] * CLIENTS
        # Warm up all connections and all processes.
        _check(each(_read, each(_submit, [10] * CLIENTS)))
        wait_until(side.is_drained, "the warm-up is over")
        _measure_idle(clients[0], figures, singles)
        with side.held():
            began = time.perf_counter()
            submitted = each(lambda c, n: _timed_submits(c, n, figures.submit_ms), counts)
            figures.submits_per_second.append(sum(counts) / (time.perf_counter() - began))
        began = time.perf_counter()
        wait_until(side.is_drained, "the jobs are over", 0.01)
        figures.drained_per_second.append(sum(counts) / (time.perf_counter() - began))
        _check(each(_read, submitted))
        _measure_whole(side, figures, lambda: _check(each(_read, each(_submit, counts))), counts)
        if isinstance(clients[0], TaskyardClient):
            _measure_lists(side, figures, each, jobs)
    for kind, processes in side.processes.items():
        figures.peaks_mb[kind] = max(peak_mb(processes), figures.peaks_mb.get(kind, 0))


def _measure_idle(client: Client, figures: Figures, count: int) -> None:
    """Measure one job at a time, at uneven moments, from its submit to its output in hand."""
    for number in range(count):
        time.sleep(0.02 + 0.002 * (number % 17))
        began = time.perf_counter()
        _check([[client.output(client.submit())]])
        figures.idle_ms.append((time.perf_counter() - began) * 1000)


def _measure_whole(
    side: Side, figures: Figures, act: Callable[[], None], counts: Sequence[int]
) -> None:
    """Measure from the first submit to the last output; CPU time includes this process's."""
    everything = [*side.everything(), psutil.Process()]
    before, began = cpu_seconds(everything), time.perf_counter()
    act()
    figures.singles_per_second.append(sum(counts) / (time.perf_counter() - began))
    figures.cpu_ms.append((cpu_seconds(everything) - before) * 1000 / sum(counts))


def _measure_lists(side: Side, figures: Figures, each: Callable[..., Any], jobs: int) -> None:
    """Measure the same with lists; then how fast lists are accepted while the workers are held."""
    began = time.perf_counter()
    _check(each(_read_list, each(_submit_list, [jobs // CLIENTS] * CLIENTS)))
    figures.lists_per_second.append(jobs // CLIENTS * CLIENTS / (time.perf_counter() - began))
    with side.held():
        began = time.perf_counter()
        each(_submit_lists, [LISTS] * CLIENTS)
        taken = CLIENTS * LISTS * LIST_JOBS
        figures.listed_per_second.append(taken / (time.perf_counter() - began))


def _spawn(figures: Figures, jobs: int) -> None:
    """Measure the machine's limit: spawn one process after the other, and nothing else."""
    began, me = time.perf_counter(), psutil.Process()
    before = cpu_seconds([me])
    for _ in range(jobs):
        one = time.perf_counter()
        subprocess.run(["/bin/sh", "-c", COMMAND], capture_output=True, check=True)
        figures.idle_ms.append((time.perf_counter() - one) * 1000)
    figures.drained_per_second.append(jobs / (time.perf_counter() - began))
    figures.cpu_ms.append((cpu_seconds([me]) - before) * 1000 / jobs)


def _submit(client: Client, count: int) -> list[Any]:
    return [client.submit() for _ in range(count)]


def _submit_list(client: TaskyardClient, count: int) -> list[Any]:
    return client.submit_list(count)


def _submit_lists(client: TaskyardClient, count: int) -> None:
    for _ in range(count):
        client.submit_list(LIST_JOBS)


def _read_list(client: TaskyardClient, jobs: list[Any]) -> list[str]:
    return client.outputs(jobs)


def _timed_submits(client: Client, count: int, times_ms: list[float]) -> list[Any]:
    submitted = []
    for _ in range(count):
        began = time.perf_counter()
        submitted.append(client.submit())
        times_ms.append((time.perf_counter() - began) * 1000)
    return submitted


def _read(client: Client, jobs: Iterable[Any]) -> list[str]:
    return [client.output(job) for job in jobs]


def _check(outputs: Iterable[Iterable[str]]) -> None:
    if wrong := [text for share in outputs for text in share if text != "hi\n"]:
        raise SystemExit(f"not what was to be printed: {wrong[:3]}")


def _print(figures: dict[str, Figures]) -> None:
    columns: list[tuple[str, Callable[[Figures], float]]] = [
        ("submit/s", lambda f: median(f.submits_per_second)),
        ("p50 ms", lambda f: quantile(f.submit_ms, 0.5)),
        ("p99 ms", lambda f: quantile(f.submit_ms, 0.99)),
        ("drain jobs/s", lambda f: median(f.drained_per_second)),
        ("whole jobs/s", lambda f: median(f.singles_per_second)),
        ("idle p50 ms", lambda f: quantile(f.idle_ms, 0.5)),
        ("idle p99 ms", lambda f: quantile(f.idle_ms, 0.99)),
        ("CPU ms/job", lambda f: median(f.cpu_ms)),
    ]
    titles = ["", *(title for title, _ in columns)]
    print_table(titles, [[name, *(of(f) for _, of in columns)] for name, f in figures.items()])
    ours = figures.get("taskyard")
    if ours is None:
        return
    print("\nTaskyard / the other")
    ratios = [
        [name, *(of(ours) / of(f) for _, of in columns)]
        for name, f in figures.items()
        if f is not ours
    ]
    print_table(titles, ratios)
    whole = median(ours.lists_per_second)
    print(f"\nwith lists: {whole:.0f} jobs/s from first submit to last output", end="")
    if base := figures.get("flask+celery+redis"):
        print(f" ({whole / median(base.singles_per_second):.2f} x flask+celery+redis)", end="")
    print(f"; lists of {LIST_JOBS} are taken at {median(ours.listed_per_second):.0f} jobs/s")
    print("\npeak memory, MB")
    for name, f in figures.items():
        if f.peaks_mb:
            kinds = ", ".join(f"{kind} {mb:.0f}" for kind, mb in f.peaks_mb.items())
            print(f"{name:22}{kinds}")


if __name__ == "__main__":
    main()
