"""Measure a scheduler pass when a million jobs have ended: ``python bench/passes.py``.

Two databases on one mongod are alike but for the ended jobs. Passes alternate between them, so
that other load on the machine affects both.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from taskyard import ids, logs
from taskyard.documents import to_document
from taskyard.embedded import EmbeddedServer
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.scheduler import assignment
from taskyard.settings import Settings
from taskyard.store import client
from taskyard.store.client import Store
from taskyard.workers.model import Requirement

QUEUED, WORKERS, CPUS_EACH = 1_000, 100, 4

#: Documents per insert.
BATCH = 5_000


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--finished", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=15)
    wanted = arguments.parse_args()
    logs.configure("ERROR")
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        stores = {
            count: prepared(server.uri, f"passes{count}", count) for count in (0, wanted.finished)
        }
        times: dict[int, list[float]] = {count: [] for count in stores}
        for _ in range(wanted.rounds + 1):
            for count, store in stores.items():
                times[count].append(one_pass(store))
        for store in stores.values():
            store.close()
    # The first pass on each database only warms up plans and caches.
    medians = {count: statistics.median(taken[1:]) for count, taken in times.items()}
    _print(medians, wanted.rounds)


def prepared(uri: str, database: str, finished: int) -> Store:
    """Fill a database with workers and the given number of ended jobs."""
    store = client.connect(Settings(mongodb_uri=uri, database=database))
    now = store.clock.now()
    for number in range(WORKERS):
        facts: dict[str, Any] = {
            "kind": "celery",
            "bootId": "b",
            "hostname": f"host{number}",
            "cpuCount": CPUS_EACH,
            "ramTotalMb": 16_384,
            "ramFreeMb": 16_000,
        }
        store.workers.register(f"agent{number}", facts, now=now)
    insert_jobs(store, finished_jobs(store, finished))
    return store


def insert_jobs(store: Store, documents: Iterable[dict[str, Any]]) -> None:
    """Insert the jobs in batches."""
    left = iter(documents)
    while batch := list(itertools.islice(left, BATCH)):
        store.database["jobs"].insert_many(batch, ordered=False)


def finished_jobs(store: Store, count: int) -> Iterator[dict[str, Any]]:
    """Yield ended jobs, newest first: one ended each second, one in a hundred has a label."""
    now = store.clock.now()
    for number in range(count):
        began = now - timedelta(seconds=number)
        job = Job(
            job_id=ids.new("job", began),
            command="python -m pytest -q",
            shape="1/256/",
            labels=("gpu",) if number % 100 == 0 else (),
            status=JobStatus.COMPLETED,
            attempts=1,
            assigned_agent_id=f"agent{number % WORKERS}",
            exit_code=0,
            created_at=began,
            queued_at=began,
            started_at=began,
            completed_at=began,
            expire_at=now + timedelta(days=30),
        )
        yield to_document(job)


def one_pass(store: Store) -> float:
    """Queue the jobs anew, run one scheduler pass, and return its milliseconds."""
    jobs = store.database["jobs"]
    live = [str(JobStatus.QUEUED), str(JobStatus.ASSIGNED)]
    jobs.delete_many({"status": {"$in": live}})
    now = store.clock.now()
    queued = []
    for number in range(QUEUED):
        need = Requirement(cpu=1 + number % 3, ram_mb=256)
        queued.append(
            Job(
                job_id=ids.new("job", now),
                command="true",
                required_cpu=need.cpu,
                shape=need.shape,
                created_at=now,
                queued_at=now,
            )
        )
    store.jobs.submit(queued)
    store.database["workers"].update_many({}, {"$set": {"lastHeartbeat": store.clock.now()}})
    began = time.perf_counter()
    report = assignment.tick(store, Settings())
    taken = (time.perf_counter() - began) * 1000
    if not report.assigned:
        raise SystemExit(f"not the pass that was to be measured: {report}")
    return taken


def _print(medians: dict[int, float], rounds: int) -> None:
    first = next(iter(medians.values()))
    print(f"a pass over {QUEUED} queued jobs and {WORKERS} workers, median of {rounds}")
    print(f"{'ended jobs':>12} {'ms':>8} {'ratio':>7}")
    for count, median in medians.items():
        print(f"{count:>12,} {median:>8.1f} {median / first:>7.2f}")


if __name__ == "__main__":
    main()
