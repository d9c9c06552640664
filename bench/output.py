"""Measure output from the job's pipe to the store and to followers: ``python bench/output.py``.

The jobs on ``taskyard up``: one that writes 100 MB, fifty at once that write 1 MB each, and one
that prints the time while first one client and then a hundred follow it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import median, peak_mb, print_table, quantile, timed_ms
from bench.following import STAMPS, Follower
from bench.ours import TaskyardClient, taskyard
from bench.side import Side

LARGE_BYTES, SMALL_BYTES, SMALL_JOBS = 100_000_000, 1_000_000, 50
LINE = "one line of the log of a build, as long as many are " + 44 * "."
CAP_BYTES = 256 * 1024 * 1024
FOLLOWERS = 100


@dataclass
class Figures:
    """The measurements of all rounds."""

    large_seconds: list[float] = field(default_factory=list)
    read_seconds: list[float] = field(default_factory=list)
    small_seconds: list[float] = field(default_factory=list)
    delays_ms: list[float] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    served_delays_ms: list[float] = field(default_factory=list)
    answers_ms: list[float] = field(default_factory=list)


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--stamps", type=int, default=100, help="lines that are followed")
    wanted = arguments.parse_args()
    figures, peaks = Figures(), dict[str, dict[str, float]]()
    with (
        tempfile.TemporaryDirectory() as folder,
        taskyard(Path(folder), TASKYARD_OUTPUT_CAP_BYTES=str(CAP_BYTES)) as side,
    ):
        client = side.connect()
        assert isinstance(client, TaskyardClient)
        peaks["at rest"] = _peaks(side)
        for _ in range(wanted.rounds):
            _follow(client, figures, wanted.stamps)
        peaks["after one was followed"] = _peaks(side)
        for _ in range(wanted.rounds):
            _follow_many(client, figures, wanted.stamps)
        peaks[f"after {FOLLOWERS} followed"] = _peaks(side)
        for _ in range(wanted.rounds):
            _fifty(client, figures)
        peaks["after fifty of 1 MB"] = _peaks(side)
        for _ in range(wanted.rounds):
            _large(client, figures)
        peaks["after one of 100 MB"] = _peaks(side)
    _print(figures, peaks)


def _large(client: TaskyardClient, figures: Figures) -> None:
    """Run one job that writes as fast as its pipe is read, then read its whole output back."""
    job = client.submit(_writes(LARGE_BYTES))
    figures.large_seconds.append(client.await_end(job))
    began = time.perf_counter()
    size = len(client.read_all(job))
    figures.read_seconds.append(time.perf_counter() - began)
    if size != LARGE_BYTES:
        raise SystemExit(f"{size} bytes are stored of {LARGE_BYTES}")


def _fifty(client: TaskyardClient, figures: Figures) -> None:
    """Run all small jobs at once and measure from their submit to the last job's end."""
    small = {"requiredCpu": 0.02, "requiredRamMb": 8}
    began = time.perf_counter()
    jobs = client.submit_list(SMALL_JOBS, _writes(SMALL_BYTES), **small)
    for job in jobs:
        client.await_end(job)
    figures.small_seconds.append(time.perf_counter() - began)
    if wrong := [job for job in jobs if len(client.read_all(job)) != SMALL_BYTES]:
        raise SystemExit(f"not all output is stored of {wrong}")


def _follow(client: TaskyardClient, figures: Figures, count: int) -> None:
    """Follow one job that prints every 50 ms with one client."""
    job = client.submit(STAMPS.format(count=count, pause=0.05))
    follower = Follower(client.url, client.token, job)
    follower.start()
    follower.join()
    if len(follower.delays_ms) != count:
        raise SystemExit(f"{len(follower.delays_ms)} of {count} lines were heard of")
    figures.delays_ms += follower.delays_ms


def _follow_many(client: TaskyardClient, figures: Figures, count: int) -> None:
    """Follow one job with a hundred clients, and ask the API for its status meanwhile."""
    job = client.submit(STAMPS.format(count=count, pause=0.1))
    followers = [Follower(client.url, client.token, job) for _ in range(FOLLOWERS)]
    for follower in followers:
        follower.start()
    answers = []
    while not all(follower.ended or not follower.is_alive() for follower in followers):
        answers.append(timed_ms(lambda: client.read_status(job)))
        time.sleep(0.1)
    served = [follower for follower in followers if len(follower.delays_ms) == count]
    figures.served.append(len(served))
    figures.served_delays_ms += [delay for follower in served for delay in follower.delays_ms]
    figures.answers_ms += answers


def _writes(size: int) -> str:
    return f"yes '{LINE}' | head -c {size}"


def _peaks(side: Side) -> dict[str, float]:
    return {kind: peak_mb(processes) for kind, processes in side.processes.items()}


def _print(figures: Figures, peaks: dict[str, dict[str, float]]) -> None:
    large, small = median(figures.large_seconds), median(figures.small_seconds)
    read = median(figures.read_seconds)
    rows: list[tuple[str, float]] = [
        ("one job writes 100 MB, seconds from start to end", large),
        ("  MB/s", LARGE_BYTES / 1e6 / large),
        ("  read back over HTTP, MB/s", LARGE_BYTES / 1e6 / read),
        ("fifty write 1 MB each, seconds from submit to end", small),
        ("  MB/s", SMALL_JOBS * SMALL_BYTES / 1e6 / small),
        ("write to follower, p50 ms", quantile(figures.delays_ms, 0.5)),
        ("write to follower, p99 ms", quantile(figures.delays_ms, 0.99)),
        (f"followers of {FOLLOWERS} that heard all", median(figures.served)),
        ("  write to follower, p50 ms", quantile(figures.served_delays_ms, 0.5)),
        ("  write to follower, p99 ms", quantile(figures.served_delays_ms, 0.99)),
        ("  status of the job meanwhile, p50 ms", quantile(figures.answers_ms, 0.5)),
        ("  status of the job meanwhile, p99 ms", quantile(figures.answers_ms, 0.99)),
    ]
    print_table(["", "median"], rows)
    print()
    kinds = list(peaks["at rest"])
    titles = ["peak memory, MB", *kinds]
    print_table(titles, [[when, *(mb[kind] for kind in kinds)] for when, mb in peaks.items()])


if __name__ == "__main__":
    main()
