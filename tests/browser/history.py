"""A made-up past day, for screenshots of the overview.

It has ended jobs as the lifecycle's verbs leave them, and the samples of queue and workers that the
statistics tick would have taken. The statistics tick counts the rest.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from taskyard import embedded, ids
from taskyard.documents import to_document
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.retry import Cause
from taskyard.jobs.transition import Moment, Outcome
from taskyard.scheduler import statistics
from taskyard.settings import Settings
from taskyard.stats.rollup import MINUTE, floor
from taskyard.store import client
from taskyard.store.client import Store
from tests import factories
from tests.processes.conftest import Up

DAY, STEP = timedelta(hours=24), timedelta(minutes=1)

#: An hour in which a build is broken: most jobs fail, and the queue grows.
TROUBLE = (timedelta(hours=7), timedelta(hours=6))

COMMANDS = (
    "python -m pytest -q tests/api",
    "python -m pytest -q tests/store",
    "make -j 4 release",
    "ruff check . && mypy",
    "node render.js --page 17",
    "ffmpeg -i clip_0412.mov -c:v libx264 clip_0412.mp4",
    "python train.py --epochs 4",
    "./backup.sh /srv/data",
)
_ERRORS = (
    Outcome(cause=Cause.EXIT, detail="exit code 1", exit_code=1),
    Outcome(cause=Cause.EXIT, detail="exit code 2", exit_code=2),
    Outcome(cause=Cause.EXIT, detail="exit code 137", exit_code=137),
)
_CPUS = 8


def live_through(up: Up, worker_id: str) -> None:
    """Store the day, as if ``worker_id`` had run all its jobs."""
    with _store(up) as store:
        end = floor(store.clock.now() - 5 * MINUTE, MINUTE)
        minutes = [end - DAY + n * STEP for n in range(DAY // STEP)]
        chosen = random.Random(4)
        jobs = [job for at in minutes for job in _minute(at, end, worker_id, chosen)]
        store.database["jobs"].insert_many([to_document(job) for job in jobs])
        store.database["stats"].delete_many({})
        for at in minutes:
            _look(store, at, end, chosen)
        for _ in range(DAY // statistics.AT_ONCE + 1):
            statistics.tick(store, Settings())


@contextmanager
def _store(up: Up) -> Iterator[Store]:
    uri = embedded.running_uri(up.home / ".local" / "share" / "taskyard")
    assert uri, "taskyard up runs no server there"
    store = client.connect(Settings(mongodb_uri=uri))
    try:
        yield store
    finally:
        store.close()


def _load(at: datetime, end: datetime) -> float:
    """How busy the minute is, 0 to 1: two waves a day, and a smaller faster wave."""
    hours = (end - at) / timedelta(hours=1)
    return 0.45 + 0.35 * math.sin(hours / 24 * 4 * math.pi) + 0.1 * math.sin(hours * 5)


def _is_trouble(at: datetime, end: datetime) -> bool:
    return TROUBLE[1] < end - at < TROUBLE[0]


def _minute(at: datetime, end: datetime, worker_id: str, chosen: random.Random) -> Iterator[Job]:
    trouble = _is_trouble(at, end)
    for _ in range(round(1 + 9 * _load(at, end) * chosen.uniform(0.7, 1.3))):
        made = at + timedelta(seconds=chosen.uniform(0, 60))
        wait = timedelta(milliseconds=chosen.lognormvariate(4.2 + 4 * trouble, 0.8))
        run = timedelta(milliseconds=chosen.lognormvariate(8.5, 1.3))
        fails = chosen.random() < (0.6 if trouble else 0.03)
        outcome = chosen.choice(_ERRORS if not trouble else _ERRORS[1:2]) if fails else Outcome()
        yield _ended(made, wait, run, outcome, worker_id, chosen.choice(COMMANDS))


def _ended(
    made: datetime, wait: timedelta, run: timedelta, outcome: Outcome, worker_id: str, command: str
) -> Job:
    began = Moment(now=made + wait)
    job = factories.queued_job(now=made, command=command, expire_at=made + timedelta(days=30))
    lease, until = ids.lease(), began.now + timedelta(minutes=1)
    given = lifecycle.assign(job, worker_id=worker_id, lease_id=lease, at=began, start_by=until)
    job = factories.after(job, given)
    job = factories.after(job, lifecycle.start(job, lease_of(job), at=began, lease_until=until))
    ended = lifecycle.finish(job, lease_of(job), outcome, at=Moment(now=began.now + run))
    return factories.after(job, ended)


def _look(store: Store, at: datetime, end: datetime, chosen: random.Random) -> None:
    trouble, load = _is_trouble(at, end), _load(at, end) * chosen.uniform(0.85, 1.15)
    used = min(_CPUS, round(_CPUS * load) + 3 * trouble)
    # In the bad hour the queue grows until its end, as until somebody repairs the build.
    since = (at - (end - TROUBLE[0])) / timedelta(hours=1) if trouble else 0
    queued = round(90 * since) if trouble else round(4 * max(0, load - 0.6) * 10)
    waits_ms = round(240_000 * since) if trouble else queued * 180
    store.stats.sample(
        at,
        sums={"held": used, "usedCpu": used, "totalCpu": _CPUS},
        most={"queued": queued, "oldestWaitMs": waits_ms},
    )
