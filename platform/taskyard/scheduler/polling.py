"""A poll: an HTTP agent that asks is handed the best queued job that fits."""

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

#: Jobs that one poll tries for. An agent that loses them all asks again soon.
RACES = 8


def poll(store: Store, settings: Settings, worker: Worker) -> Job | None:
    """Hand the best queued job that fits to an HTTP agent that asks, in one write.

    A job that it was handed in this life and never showed life of is handed to it again, under
    the same lease: its answer was lost on the way. Not one that was cancelled meanwhile.
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
    """The first queued job of these shapes that fits and that nobody is faster with.

    Nearly always that is the first of all: what comes behind it is read where it is not. Who loses
    one looks at what is left, and takes one of the first two of the same priority, then of four:
    many agents that ask at once would else all try for each job in turn, and most for nothing.
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
    """The job as this worker has it now, unless another was faster."""
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
    """The job that this life of the worker was handed and has not heard of, if it is to run."""
    for job in store.live.held_by(worker.worker_id):
        if job.agent_boot == worker.boot and job.last_seen_at is None:
            # Told only when a majority has it: what one member alone has may never have been.
            held = store.jobs.confirmed(job.job_id)
            if held and held.last_seen_at is None and lease_of(job).covers(held):
                if not held.cancel_requested:
                    return held
                _take_back(store, settings, held, "no worker had heard of it")
    return None


def _fits_beside(store: Store, settings: Settings, worker: Worker, claimed: Job) -> bool:
    """Whether the job fits beside all else that the worker holds; it is given back if not.

    Two polls of one worker at the same time have both seen its place free; which of them is
    first cannot be told, so both may go away empty, and the next poll gets the job.
    """
    spot = Place(worker=worker)
    for job in store.live.held_by(worker.worker_id):
        if job.job_id != claimed.job_id:
            spot.take(job)
    if places.obstacle(spot, claimed, claimed.requirement) is None:
        return True
    _take_back(store, settings, claimed, "another poll of this worker took its place")
    return False


def _take_back(store: Store, settings: Settings, job: Job, reason: str) -> None:
    """Back to the queue, or CANCELLED if that was asked for meanwhile."""
    at = Moment(now=store.clock.now(), keep=settings.job_retention)
    store.jobs.apply(lifecycle.release(job, lease_of(job), reason=reason, at=at, told=False))
