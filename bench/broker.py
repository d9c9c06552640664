"""Compare Celery on Taskyard's broker, Redis and stock MongoDB: ``python bench/broker.py``.

All sides run the same tasks on the same worker (prefork, two children, late acknowledgement) or,
with ``--solo N``, on N workers of one process each. Each side has a durable server of its own:
Redis with ``appendonly yes``, MongoDB with majority writes, and stock MongoDB with its
``polling_interval`` tuned. Sides alternate, round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.broker_tasks import RECORD, make_app
from bench.common import cpu_seconds, family, quantile, redis_server, started, wait_until

from taskyard.embedded import EmbeddedServer

#: The polling interval of the stock transport; its default is one second.
STOCK_POLL_SECONDS = 0.01

#: Numbers of publishing threads: a script that publishes in a loop, and a web process with four.
PUBLISHERS = (1, 4)

_PATIENCE_SECONDS = 120.0


@dataclass
class Figures:
    """The measurements of one side over all rounds."""

    latencies_ms: list[float] = field(default_factory=list)
    publishes_ms: list[float] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)
    drained_per_second: list[float] = field(default_factory=list)
    #: By the number of publishing threads.
    through_per_second: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    idle_worker_percent: list[float] = field(default_factory=list)
    idle_server_percent: list[float] = field(default_factory=list)


class Side:
    """One broker with a worker that consumes from it, or with so many workers of the solo pool."""

    def __init__(
        self, name: str, url: str, folder: Path, server_pid: int, solo: int, **env: str
    ) -> None:
        self.name = name
        self.figures = Figures()
        self._pipe = folder / f"{name}.pipe"
        os.mkfifo(self._pipe)
        self._reader = os.open(self._pipe, os.O_RDWR)
        self._server = psutil.Process(server_pid)
        options = {"polling_interval": float(env["BENCH_POLL"])} if env else {}
        self._app = make_app(url, options)
        variables = {**os.environ, "BENCH_BROKER": url, "BENCH_PIPE": str(self._pipe), **env}
        pool = "solo" if solo else "prefork"
        self._running = contextlib.ExitStack()
        self._workers = [
            self._running.enter_context(
                started(_worker(f"{name}{n}", pool), variables, folder / f"{name}{n}.log")
            )
            for n in range(solo or 1)
        ]

    def warm_up(self) -> None:
        """Wait for the workers, and run 50 tasks, so that both children of one are warm."""
        wait_until(self._all_answer, f"{self.name}: all workers answer")
        self._publish_many(50)
        self._records(50)

    def measure_latency(self, count: int) -> None:
        """Measure from publish to start on an idle worker, one task at a time at uneven moments."""
        for number in range(count):
            time.sleep(0.02 + 0.002 * (number % 17))
            self._publish()
            returned = time.monotonic_ns()
            ((published, started),) = self._records(1)
            self.figures.publishes_ms.append((returned - published) / 1e6)
            self.figures.latencies_ms.append((started - published) / 1e6)
            self.figures.waits_ms.append(max(0.0, (started - returned) / 1e6))

    def measure_through(self, count: int, publishers: int) -> None:
        """Measure from first publish to last start while worker and publishers run at once."""
        begin = time.monotonic_ns()
        each = count // publishers
        feeding = [
            threading.Thread(target=self._publish_many, args=(each,)) for _ in range(publishers)
        ]
        for thread in feeding:
            thread.start()
        last = max(started for _, started in self._records(each * publishers))
        for thread in feeding:
            thread.join()
        rate = each * publishers / ((last - begin) / 1e9)
        self.figures.through_per_second[publishers].append(rate)

    def measure_drain(self, count: int) -> None:
        """Measure from first to last start of tasks that were all queued beforehand."""
        control = self._app.control
        workers = len(self._workers)
        control.cancel_consumer("celery", reply=True, timeout=20, limit=workers)
        self._publish_many(count)
        control.add_consumer("celery", reply=True, timeout=5, limit=workers)
        starts = [started for _, started in self._records(count)]
        self.figures.drained_per_second.append(count / ((max(starts) - min(starts)) / 1e9))

    def measure_idle(self, seconds: float) -> None:
        """Measure the CPU that workers and server use when there is nothing to do."""
        mine = [one for worker in self._workers for one in family(worker.pid)]
        before = cpu_seconds(mine), cpu_seconds([self._server])
        time.sleep(seconds)
        after = cpu_seconds(mine), cpu_seconds([self._server])
        self.figures.idle_worker_percent.append(100 * (after[0] - before[0]) / seconds)
        self.figures.idle_server_percent.append(100 * (after[1] - before[1]) / seconds)

    def close(self) -> None:
        """Stop the workers and close app and pipe."""
        self._running.close()
        self._app.close()
        os.close(self._reader)

    def _all_answer(self) -> bool:
        workers = len(self._workers)
        return len(self._app.control.inspect(limit=workers).ping() or ()) == workers

    def _publish_many(self, count: int) -> None:
        for _ in range(count):
            self._publish()

    def _publish(self) -> None:
        self._app.send_task("bench.tell", (time.monotonic_ns(),))

    def _records(self, count: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        rest = b""
        while len(found) < count:
            ready, _, _ = select.select([self._reader], [], [], _PATIENCE_SECONDS)
            if not ready:
                raise SystemExit(f"{self.name}: {count - len(found)} of {count} tasks never ran")
            rest += os.read(self._reader, RECORD.size * 4096)
            whole = len(rest) - len(rest) % RECORD.size
            found.extend(RECORD.iter_unpack(rest[:whole]))
            rest = rest[whole:]
        return found


def _worker(name: str, pool: str) -> list[str]:
    return [
        *(sys.executable, "-m", "celery", "-A", "bench.broker_tasks", "worker"),
        *("-P", pool, "-n", f"{name}@bench", "-l", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--tasks", type=int, default=2000, help="for throughput, a round")
    arguments.add_argument("--singles", type=int, default=100, help="for latency, a round")
    arguments.add_argument("--idle", type=float, default=10.0, help="seconds, once a side")
    arguments.add_argument("--only", default="", help="sides, by comma")
    arguments.add_argument("--solo", type=int, default=0, help="so many workers of one process")
    wanted = arguments.parse_args()
    with _sides(wanted.only, wanted.solo) as sides:
        for side in sides:
            side.warm_up()
        for _ in range(wanted.rounds):
            for side in sides:
                side.measure_latency(wanted.singles)
            for publishers in PUBLISHERS:
                for side in sides:
                    side.measure_through(wanted.tasks, publishers)
            for side in sides:
                side.measure_drain(wanted.tasks)
        for side in sides:
            side.measure_idle(wanted.idle)
        _print(sides)


@contextlib.contextmanager
def _sides(only: str, solo: int) -> Iterator[list[Side]]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides: list[Side] = []
        wanted = only.split(",") if only else ["taskyard", "redis", "stock"]
        for name in wanted:
            side = stack.enter_context(_side(name, folder / name, solo))
            stack.callback(side.close)
            sides.append(side)
        yield sides


@contextlib.contextmanager
def _side(name: str, folder: Path, solo: int) -> Iterator[Side]:
    folder.mkdir()
    if name == "redis":
        with redis_server(folder) as (port, pid):
            yield Side(name, f"redis://127.0.0.1:{port}/0", folder, pid, solo)
        return
    with EmbeddedServer(folder / "db") as server:
        assert server.pid is not None
        if name == "stock":
            poll = {"BENCH_POLL": str(STOCK_POLL_SECONDS)}
            yield Side(name, server.uri.replace("/?", "/stock?"), folder, server.pid, solo, **poll)
        else:
            yield Side(name, f"taskyard+{server.uri}", folder, server.pid, solo)


def _print(sides: list[Side]) -> None:
    base = next((side for side in sides if side.name == "redis"), sides[0]).figures
    rows: list[tuple[str, Any]] = [
        ("idle publish to start, p50 ms", lambda f: quantile(f.latencies_ms, 0.5)),
        ("idle publish to start, p99 ms", lambda f: quantile(f.latencies_ms, 0.99)),
        ("one publish, p50 ms", lambda f: quantile(f.publishes_ms, 0.5)),
        ("idle, published to start, p50 ms", lambda f: quantile(f.waits_ms, 0.5)),
        *(
            (f"published by {n} and run, tasks/s", lambda f, n=n: median(f.through_per_second[n]))
            for n in PUBLISHERS
        ),
        ("drain, tasks/s", lambda f: median(f.drained_per_second)),
        ("idle workers, % of a core", lambda f: median(f.idle_worker_percent)),
        ("idle server, % of a core", lambda f: median(f.idle_server_percent)),
    ]
    print(f"{'':34}" + "".join(f"{side.name:>20}" for side in sides))
    for title, of in rows:
        cells = [f"{of(s.figures):9.2f} ({of(s.figures) / (of(base) or 1):5.2f} x)" for s in sides]
        print(f"{title:34}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
