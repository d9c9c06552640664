"""Polls of HTTP agents: an agent that asks is handed the best queued job that fits."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import timedelta

from taskyard import ids
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.transition import Moment
from taskyard.scheduler.assignment import SPARE
from taskyard.settings import Settings
from taskyard.store.client import Store
from taskyard.store.live import queue_order
from taskyard.workers import places
from taskyard.workers.model import Requirement, Worker
from taskyard.workers.places import Place

#: Most jobs that one poll tries to claim. An agent that loses all of them soon polls again.
RACES = 8


def poll(store: Store, settings: Settings, worker: Worker) -> Job | None:
    """Claim the best queued job that fits for an HTTP agent that polls, in one write.

    A job that this boot of the agent was handed before and has shown no life of is handed to it
    again, under the same lease, because the answer to it was lost; unless its cancel was requested.
    """
    if again := _unheard(store, settings, worker):
        return again
    now = store.clock.now()
    usage = store.live.usage([worker.worker_id])
    spots = places.places([worker], usage, now, settings.offline_after)
    shapes = store.live.waiting_shapes() if spots else []
    suitable = [s for s in shapes if places.room_on(spots, Requirement.of_shape(s), at_most=1)]
    claimed = _claim_one(store, settings, spots[0], suitable) if suitable else None
    if claimed and _fits_beside(store, settings, worker, claimed):
        return claimed
    return None


def _claim_one(store: Store, settings: Settings, spot: Place, shapes: Sequence[str]) -> Job | None:
    """Claim the first queued job of these shapes that fits and that nobody else claims first.

    That is nearly always the first of all; more jobs are read only if it is not. A poll that loses
    a job picks at random among the first two of the jobs left, then four and so on, of the same
    priority: otherwise many agents that poll at once would all try for each job in turn, and most
    would lose.
    """
    lost = 0
    for first in _fitting(spot, store.live.first(shapes, 1)):
        if claimed := _claim(store, settings, spot, first):
            return claimed
        lost = 1
    fitting = _fitting(spot, store.live.first(shapes, SPARE))
    while fitting and lost < RACES:
        alike = [job for job in fitting[: 2**lost] if job.priority == fitting[0].priority]
        chosen = random.choice(alike)  # noqa: S311 - it spreads agents, and hides nothing
        if claimed := _claim(store, settings, spot, chosen):
            return claimed
        lost += 1
        left = store.live.queued_among([job.job_id for job in fitting])
        fitting = _fitting(spot, sorted(left, key=queue_order))
    return None


def _fitting(spot: Place, jobs: Iterable[Job]) -> list[Job]:
    return [job for job in jobs if not places.obstacle(spot, job, job.requirement)]


def _claim(store: Store, settings: Settings, spot: Place, job: Job) -> Job | None:
    """Claim the job for this worker; return None if another was faster."""
    now = store.clock.now()
    return store.jobs.apply(
        lifecycle.claim(
            job,
            worker=spot.worker,
            lease_id=ids.lease(),
            at=Moment(now=now),
            lease_until=now + timedelta(seconds=settings.http_lease_seconds),
        )
    )


def _unheard(store: Store, settings: Settings, worker: Worker) -> Job | None:
    """Return a job that this boot of the worker was handed and never heard of, if it is to run."""
    for job in store.live.unheard_of(worker):
        # Answer only what a majority has: what one member alone has may be rolled back.
        held = store.jobs.confirmed(job.job_id)
        if held and held.last_seen_at is None and lease_of(job).covers(held):
            if not held.cancel_requested:
                return held
            _take_back(store, settings, held, "no worker had heard of it")
    return None


def _fits_beside(store: Store, settings: Settings, worker: Worker, claimed: Job) -> bool:
    """Whether the job fits beside all else that the worker holds; if not, give it back.

    Two polls of one worker at the same time may both have seen its place free. Which was first
    cannot be told, so both may go away empty, and the next poll gets the job.
    """
    usage = store.live.usage([worker.worker_id], besides=claimed.job_id)
    spot = places.place_of(worker, usage)
    if places.obstacle(spot, claimed, claimed.requirement) is None:
        return True
    _take_back(store, settings, claimed, "another poll of this worker took its place")
    return False


def _take_back(store: Store, settings: Settings, job: Job, reason: str) -> None:
    """Put the job back into the queue, or end it as CANCELLED if that was requested meanwhile."""
    at = Moment(now=store.clock.now(), keep=settings.job_retention)
    store.jobs.apply(lifecycle.release(job, lease_of(job), reason=reason, at=at, told=False))
