"""Measure each page over HTTP with a million jobs stored: ``python bench/pages.py``.

``web`` runs as it is deployed, on a mongod of its own with the week of jobs of ``search.py``.
"Cold" is a page's first request after web and mongod were restarted and the kernel dropped the
files from its cache. The other requests take the pages in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import Caller, median, print_table, quantile, started, timed_ms, wait_until
from bench.passes import insert_jobs
from bench.search import SEARCHES, WEEK, WORKERS, week_of_jobs

from taskyard import ids, logs
from taskyard.addresses import free_port
from taskyard.api import paging
from taskyard.documents import to_document
from taskyard.embedded import EmbeddedServer
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.overview import SPANS
from taskyard.scheduler import statistics
from taskyard.settings import Settings
from taskyard.stats.rollup import HOUR, floor, merge
from taskyard.store import client
from taskyard.store.chunks import pieces
from taskyard.store.client import Store
from taskyard.store.locks import TickMark
from taskyard.store.searches import Position

DATABASE, HELD, PRINTED = "pages", 160, 50_000_000


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--jobs", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--data", type=Path, help="folder that keeps the jobs for the next run")
    wanted = arguments.parse_args()
    logs.configure("ERROR")
    with tempfile.TemporaryDirectory() as name:
        folder: Path = wanted.data or Path(name)
        pages = _filled(folder, wanted.jobs)
        _let_go(folder)
        with _database(folder) as store, _web(folder, store) as url:
            caller = Caller(url)
            cold = {page: timed_ms(partial(caller.read, "GET", pages[page])) for page in pages}
            warm: dict[str, list[float]] = {page: [] for page in pages}
            for _ in range(wanted.rounds):
                _beat(store)
                for page, path in pages.items():
                    warm[page].append(timed_ms(partial(caller.read, "GET", path)))
    print(f"{wanted.jobs:,} jobs, {WORKERS} workers; ms, of {wanted.rounds}")
    rows = [[page, median(taken), quantile(taken, 1), cold[page]] for page, taken in warm.items()]
    print_table(["page", "median", "worst", "cold"], rows)


def _filled(folder: Path, count: int) -> Mapping[str, str]:
    """Return every page's address by name; fills the folder with jobs if it has none."""
    known = folder / "addresses.json"
    if not known.exists():
        with _database(folder) as store:
            pages = dict(_fill(store, count))
        known.write_text(json.dumps(pages))
    addresses: Mapping[str, str] = json.loads(known.read_text())
    return addresses


@contextlib.contextmanager
def _database(folder: Path) -> Iterator[Store]:
    with EmbeddedServer(folder) as server:
        store = client.connect(Settings(mongodb_uri=server.uri, database=DATABASE))
        try:
            yield store
        finally:
            store.close()


@contextlib.contextmanager
def _web(folder: Path, store: Store) -> Iterator[str]:
    """Run the process that serves the pages, as the Procfile starts it; yields its address."""
    bind = f"127.0.0.1:{free_port()}"
    here = {
        "MONGODB_URI": (folder / "uri").read_text().split()[1],
        "TASKYARD_DATABASE": DATABASE,
        "TASKYARD_BIND": bind,
        "TASKYARD_AUTH": "off",
    }
    program = str(Path(sys.executable).with_name("gunicorn"))
    command = [program, "-c", "python:taskyard.gunicorn_config", "taskyard.wsgi:app"]
    log = folder / "web.log"
    with started(command, {**os.environ, **here}, log):

        def listens() -> bool:
            return "Listening at" in log.read_text()

        wait_until(listens, "web listens")
        # Load and connect the application first, so that only the data is cold afterwards.
        Caller(f"http://{bind}").read("GET", "/healthz")
        _beat(store)
        yield f"http://{bind}"


def _fill(store: Store, count: int) -> Mapping[str, str]:
    """Store a week of jobs, workers that hold some, and statistics; returns page addresses."""
    insert_jobs(store, week_of_jobs(store, count))
    now = store.clock.now()
    for number in range(WORKERS):
        facts: dict[str, Any] = {"kind": "celery", "bootId": "b", "hostname": f"host{number}"}
        facts |= {"cpuCount": 4, "ramTotalMb": 16_384, "ramFreeMb": 16_000}
        store.workers.register(f"w{number}", facts, now=now)
    insert_jobs(store, map(to_document, (_held(store, number) for number in range(HELD))))
    for _ in range(14):  # a day, two hours a tick
        statistics.tick(store, Settings())
    _remember(store)
    store.locks.note_tick(TickMark(name="statistics", at=now, ms=0.0, report={}))
    middle = Position(created_at=now - WEEK / 2, job_id="job-")
    return _addresses(_printed(store), middle, _ends_of_queue(store))


def _remember(store: Store) -> None:
    """Store the week's hourly statistics, as a week of ticks would have left them."""
    begin = floor(store.clock.now() - WEEK, HOUR)
    for day in range(WEEK.days):
        first = begin + timedelta(days=day)
        minutes = store.stats.count(first, first + timedelta(days=1))
        hours = [first + n * HOUR for n in range(24)]
        merged = [merge(at, [m for m in minutes if floor(m.at, HOUR) == at]) for at in hours]
        store.stats.save(HOUR, merged)


def _held(store: Store, number: int) -> Job:
    now = store.clock.now()
    return Job(
        job_id=ids.new("job", now),
        command="sleep 600",
        shape="1/256/",
        status=JobStatus.RUNNING,
        attempts=1,
        assigned_agent_id=f"w{number % WORKERS}",
        lease_id=ids.lease(),
        lease_until=now,
        created_at=now,
        queued_at=now,
        started_at=now,
    )


def _ends_of_queue(store: Store) -> Mapping[str, str]:
    """Return the ids of the first and the last job in the queue, if any is queued."""
    queued = store.database["jobs"].find({"status": "QUEUED"}, {"_id": 1})
    ordered = [found["_id"] for found in queued.sort("queuedAt", 1)]
    return {"first": ordered[0], "last": ordered[-1]} if ordered else {}


def _printed(store: Store) -> str:
    """Store a job that printed fifty megabytes; returns its id."""
    now = store.clock.now()
    job = replace(_held(store, 0), status=JobStatus.COMPLETED, lease_id=None, lease_until=None)
    job = replace(job, output_attempt=1, output_bytes=PRINTED, completed_at=now)
    line = "step 17 of 4711: linked 23 objects, 0 warnings, 0 errors\n"
    chunks = list(pieces("stdout", line * (PRINTED // len(line)), 0))
    for begin in range(0, len(chunks), 100):
        store.output.store(job.job_id, 1, chunks[begin : begin + 100], now=now)
    insert_jobs(store, [to_document(job)])
    return job.job_id


def _addresses(printed: str, middle: Position, waiting: Mapping[str, str]) -> Mapping[str, str]:
    lists = {f"jobs {status.lower()}": f"/?status={status}" for status in JobStatus}
    searches = {f"jobs, {q}": f"/?q={quote(q)}" for q in SEARCHES if q}
    return {
        "jobs": "/",
        "jobs, half-way back": f"/?after={paging.encode(middle)}",
        **lists,
        **searches,
        "a job that printed 50 MB": f"/jobs/{printed}",
        **{f"a job that waits, {end}": f"/jobs/{name}" for end, name in waiting.items()},
        "workers": "/workers",
        "a worker": "/worker?id=w1",
        **{f"overview {span}": f"/overview?range={span}" for span in SPANS},
        "system": "/system",
    }


def _beat(store: Store) -> None:
    """Set every worker's last heartbeat to now."""
    store.database["workers"].update_many({}, {"$set": {"lastHeartbeat": store.clock.now()}})


def _let_go(folder: Path) -> None:
    """Have the kernel drop its cache of the files, so that the next reads are from disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
