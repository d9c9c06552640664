"""Measure lists, counts and the overview with a million jobs stored: ``python bench/search.py``.

A mongod of its own stores a week of jobs. Each search is timed for its first page, its second page
and its counts by state.
"""

from __future__ import annotations

import argparse
import random
import statistics as figures
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.passes import insert_jobs

from taskyard import ids, logs
from taskyard.context import Platform
from taskyard.documents import to_document
from taskyard.embedded import EmbeddedServer
from taskyard.jobs.model import Job
from taskyard.jobs.search_terms import parse
from taskyard.jobs.states import JobStatus
from taskyard.overview import SPANS, overview
from taskyard.scheduler import statistics
from taskyard.settings import Settings
from taskyard.store import client
from taskyard.store.client import Store

WEEK = timedelta(days=7)
WORKERS, PAGE = 40, 50

SEARCHES = (
    "",
    "status:failed",
    "worker:w1",
    "label:gpu",
    "status:failed worker:w1 label:gpu part created>-1d",
    "-worker:w1 -status:completed",
    "created<-3d exit:137",
    "run>1h",
    "nothing-like-it",
    "status:failed nothing-like-it",
)


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--jobs", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=9)
    wanted = arguments.parse_args()
    logs.configure("ERROR")
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        store = client.connect(Settings(mongodb_uri=server.uri, database="search"))
        insert_jobs(store, week_of_jobs(store, wanted.jobs))
        print(f"{wanted.jobs:,} jobs, median (and worst) of {wanted.rounds} in ms")
        print(f"{'':52} {'page':>13} {'next page':>13} {'counts':>13}")
        for text in SEARCHES:
            print(f"{text or 'all':52}", *_search(store, text, wanted.rounds))
        _overviews(store, wanted.rounds)
        store.close()


def week_of_jobs(store: Store, count: int) -> Iterator[dict[str, Any]]:
    """Yield a week of jobs: 89 % completed, 7 % failed, 3 % cancelled and 1 % queued."""
    now, chosen = store.clock.now(), random.Random(1)
    kinds = [JobStatus.COMPLETED] * 89 + [JobStatus.FAILED] * 7 + [JobStatus.CANCELLED] * 3
    for number in range(count):
        made = now - WEEK * (number / count)
        status = chosen.choice([*kinds, JobStatus.QUEUED])
        began = made + timedelta(milliseconds=chosen.lognormvariate(4, 2))
        ended = began + timedelta(milliseconds=chosen.lognormvariate(7, 2))
        code = chosen.choice([1, 1, 2, 137]) if status is JobStatus.FAILED else 0
        ran = {
            "assigned_agent_id": f"w{number % WORKERS}",
            "attempts": 1,
            "exit_code": code,
            "error_message": f"exit code {code}" if code else None,
            "started_at": began,
            "completed_at": ended,
            "expire_at": ended + timedelta(days=30),
        }
        job = Job(
            job_id=ids.new("job", made),
            command=f"python -m pytest -q tests/part_{number % 977} --seed {number}",
            labels=("gpu",) if number % 10 == 0 else (),
            shape="1/256/gpu" if number % 10 == 0 else "1/256/",
            status=status,
            created_at=made,
            queued_at=made,
            **({} if status is JobStatus.QUEUED else ran),  # type: ignore[arg-type] # fields by name
        )
        yield to_document(job)


def _search(store: Store, text: str, rounds: int) -> list[str]:
    search = parse(text, now=store.clock.now())
    after = store.queries.page(search, limit=PAGE).next
    asked: list[Callable[[], object]] = [
        lambda: store.queries.page(search, limit=PAGE),
        lambda: store.queries.page(search, limit=PAGE, after=after),
        lambda: store.queries.tally(search),
    ]
    return [_timed(act, rounds) for act in asked]


def _overviews(store: Store, rounds: int) -> None:
    settings = Settings()
    here = Platform(settings=settings, store=store, announce=lambda _: None)
    for _ in range(14):  # a day, two hours a tick
        statistics.tick(store, settings)
    print(f"{'statistics tick':52}", _timed(lambda: statistics.tick(store, settings), rounds))
    for name, span in SPANS.items():
        print(f"{'overview ' + name:52}", _timed(partial(overview, here, span), rounds))


def _timed(act: Callable[[], object], rounds: int) -> str:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        taken.append((time.perf_counter() - began) * 1000)
    return f"{figures.median(taken):>6.1f} ({max(taken):>4.0f})"


if __name__ == "__main__":
    main()
