"""Measure what grows with stored jobs, workers and followers: ``python bench/scale.py``.

Several databases on one mongod are alike but for their ended jobs, and are queried in turns.
Plans and counts of examined documents come from MongoDB's profiler, for the requests' own queries.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import questions
from bench.common import median, quantile, timed_ms, wait_until
from bench.following import STAMPS, Follower
from bench.ours import TaskyardClient, taskyard
from bench.passes import WORKERS, prepared

from taskyard import ids, logs
from taskyard.embedded import EmbeddedServer
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment
from taskyard.settings import Settings
from taskyard.store.client import Store
from taskyard.workers import placement, places
from taskyard.workers.model import Requirement, Worker

PLACED, PLACES, WRITTEN, BEATS, FOLLOWERS = 100_000, 10_000, 5_000, 100, 100
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    """Measure and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--stored", default="0,10000,100000,1000000", help="sizes, by comma")
    arguments.add_argument("--rounds", type=int, default=15)
    wanted = arguments.parse_args()
    logs.configure("ERROR")
    sizes = [int(size) for size in wanted.stored.split(",")]
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        stores = {size: prepared(server.uri, f"scale{size}", size) for size in sizes}
        questions.ask(stores, wanted.rounds)
        _writes(stores[sizes[-1]], sizes[-1])
        for store in stores.values():
            store.close()
    for kinds in (3, 300):
        _placement(kinds)
    _followers()


def _writes(store: Store, size: int) -> None:
    """Time the writes of heartbeats and passes on the largest database."""
    print(f"\nwrites, at {size:,} stored jobs")
    beats = [timed_ms(partial(_beat, store, f"agent{number}")) for number in range(BEATS)]
    share = sum(beats) / 1000 / Settings().renewal_seconds * 100
    print(
        f"a heartbeat with renewal: p50 {quantile(beats, 0.5):.1f} ms, "
        f"p99 {quantile(beats, 0.99):.1f} ms; {BEATS} agents take {share:.0f} % of one connection"
    )
    seconds = median([_assigned(store) for _ in range(3)])
    print(f"{WRITTEN:,} assignments of one pass: {WRITTEN / seconds:,.0f} a second")


def _assigned(store: Store) -> float:
    """Submit jobs, and return the seconds that it takes to write their assignments."""
    now = store.clock.now()
    jobs = [_job(number, ids.new("job", now), store) for number in range(WRITTEN)]
    store.jobs.submit(jobs)
    at, start_by = Moment(now=now), now + timedelta(minutes=5)
    leases = [ids.lease() for _ in range(WORKERS)]
    transitions = [
        lifecycle.assign(
            job,
            worker_id=f"agent{number % WORKERS}",
            lease_id=leases[number % WORKERS],
            at=at,
            start_by=start_by,
        )
        for number, job in enumerate(jobs)
    ]
    return timed_ms(lambda: store.jobs.apply_all(transitions)) / 1000


def _beat(store: Store, worker_id: str) -> None:
    """Send the queries and writes that an agent sends with each heartbeat."""
    now = store.clock.now()
    store.workers.heartbeat(worker_id, {"cpuUsage": 1.0, "ramFreeMb": 9_000}, now=now)
    held = store.live.held_by(worker_id)
    leases = [lease_of(job) for job in held[:10]]
    lease = timedelta(seconds=15)
    store.leases.renew(worker_id, leases, now=now, lease=lease, grace=lease)
    store.live.held_by(worker_id, JobStatus.ASSIGNED)


def _job(number: int, job_id: str, store: Store | None = None) -> Job:
    now = store.clock.now() if store else _EPOCH
    need = Requirement(cpu=1 + number % 3, ram_mb=256)
    return Job(
        job_id=job_id,
        command="true",
        required_cpu=need.cpu,
        shape=need.shape,
        created_at=now,
        queued_at=now,
    )


def _placement(kinds: int) -> None:
    """Time the pure placement function with jobs of ``kinds`` different requirements."""
    jobs = [
        replace(_job(number, f"job{number}"), required_ram_mb=256 + number % (kinds // 3))
        for number in range(PLACED)
    ]
    workers = [
        Worker(
            worker_id=f"agent{number}",
            kind="celery",
            cpu_count=32,
            ram_total_mb=65_536,
            ram_free_mb=60_000,
            cpu_usage=float(number % 80),
            last_heartbeat=_EPOCH,
        )
        for number in range(PLACES)
    ]

    def place() -> None:
        spots = places.places(workers, {}, _EPOCH, timedelta(seconds=30))
        plan = placement.place(jobs, spots, now=_EPOCH, reserve_after=timedelta(seconds=60))
        if len(plan.placements) != PLACED:
            raise SystemExit(f"only {len(plan.placements)} were placed")

    seconds = median([timed_ms(place) / 1000 for _ in range(3)])
    print(
        f"\n{PLACED:,} queued jobs of {kinds} kinds placed on {PLACES:,} workers in {seconds:.2f} s"
    )


def _followers() -> None:
    """Follow one job with a hundred clients on ``taskyard up``."""
    with tempfile.TemporaryDirectory() as folder, taskyard(Path(folder)) as side:
        client = side.connect()
        assert isinstance(client, TaskyardClient)
        job = client.submit(STAMPS.format(count=100, pause=0.1))
        followers = [Follower(client.url, client.token, job) for _ in range(FOLLOWERS)]
        for follower in followers:
            follower.start()
        time.sleep(5)
        served = [follower for follower in followers if follower.delays_ms]
        wait_until(lambda: all(f.ended for f in followers), "all have heard the end")
    late = [delay for follower in served for delay in follower.delays_ms]
    print(
        f"{len(served)} of {FOLLOWERS} followers of one job hear it while it runs; "
        f"write to follower p50 {quantile(late, 0.5):.0f} ms, p99 {quantile(late, 0.99):.0f} ms"
    )


if __name__ == "__main__":
    main()
