"""A pass: read what is live, place it (pure), write the assignments in one batch."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from taskyard import events, ids
from taskyard.jobs import lifecycle
from taskyard.jobs.lifecycle import Moment, Transition
from taskyard.jobs.model import Job
from taskyard.settings import Settings
from taskyard.store.client import Store
from taskyard.workers import placement
from taskyard.workers.model import Worker

LOCK = "pass"

#: A pass that takes longer than this has died: another may begin.
LOCK_HOLD = timedelta(seconds=10)

#: Jobs of one shape that one pass looks at. More than that waits for the next pass, which the
#: freed places bring about anyway.
PER_SHAPE = 500


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What one pass did."""

    trigger: str
    #: False when another pass was running: it was asked to go once more.
    ran: bool = True
    queued: int = 0
    assigned: Sequence[Transition] = field(default_factory=list)
    lost: int = 0
    duration_ms: float = 0


def tick(store: Store, settings: Settings, *, trigger: str = "tick") -> PassReport:
    """Run a pass if none is running, else ask the running one to go once more."""
    owner = secrets.token_hex(6)
    if not store.locks.acquire(LOCK, owner, now=store.clock.now(), hold=LOCK_HOLD):
        return PassReport(trigger=trigger, ran=False)
    began = time.monotonic()
    assigned: list[Transition] = []
    queued = lost = 0
    while True:
        store.locks.clear_flag(LOCK, owner)
        read, won, missed = _once(store, settings)
        assigned, queued, lost = [*assigned, *won], read, lost + missed
        if store.locks.release(LOCK, owner, now=store.clock.now()):
            break
    report = PassReport(
        trigger=trigger,
        queued=queued,
        assigned=assigned,
        lost=lost,
        duration_ms=round((time.monotonic() - began) * 1000, 1),
    )
    _tell(report)
    return report


def poll(store: Store, settings: Settings, worker: Worker) -> Job | None:
    """Hand the best queued job that fits to an HTTP agent that asks, in one write.

    A job that it was handed and never showed life of is handed to it again, under the same
    lease: its answer was lost on the way.
    """
    held = store.queries.held_by(worker.worker_id)
    for job in held:
        if job.agent_kind == "http" and job.last_seen_at is None:
            return job
    now = store.clock.now()
    usage = store.queries.usage([worker.worker_id])
    spots = placement.places([worker], usage, now, timedelta(seconds=settings.offline_seconds))
    for job in store.queries.queue(per_shape=PER_SHAPE) if spots else []:
        if placement.refuses(worker, job) or placement.fits(spots[0], job):
            continue
        claimed = store.jobs.apply(
            lifecycle.claim(
                job,
                worker_id=worker.worker_id,
                kind=worker.kind,
                lease_id=ids.lease(),
                at=Moment(now=now),
                lease_until=now + timedelta(seconds=settings.http_lease_seconds),
            )
        )
        if claimed is not None:
            return claimed
    return None


def _once(store: Store, settings: Settings) -> tuple[int, list[Transition], int]:
    """One read, one decision, one batch. Returns (jobs read, assignments won, races lost)."""
    workers = [w for w in store.workers.listed() if w.kind == "celery"]
    queue = store.queries.queue(per_shape=PER_SHAPE) if workers else []
    if not queue and not any(worker.reserved_for for worker in workers):
        return 0, [], 0
    now = store.clock.now()
    offline_after = timedelta(seconds=settings.offline_seconds)
    usage = store.queries.usage()
    kept = [worker.reserved_for for worker in workers if worker.reserved_for]
    plan = placement.place(
        queue,
        placement.places(workers, usage, now, offline_after),
        now=now,
        reserve_after=timedelta(seconds=settings.reserve_after_seconds),
        still_queued=store.queries.queued_among(kept),
    )
    start_by = now + timedelta(seconds=settings.start_deadline_seconds)
    transitions = [
        lifecycle.assign(
            job, worker_id=worker_id, lease_id=ids.lease(), at=Moment(now=now), start_by=start_by
        )
        for job, worker_id in plan.placements
    ]
    won = store.jobs.assign_all(transitions)
    store.workers.reserve(plan.reservations, {w.worker_id: w.reserved_for for w in workers})
    return len(queue), won, len(transitions) - len(won)


def _tell(report: PassReport) -> None:
    if report.queued or report.assigned:
        events.emit(
            "scheduler.pass",
            trigger=report.trigger,
            queued=report.queued,
            assigned=len(report.assigned),
            lost=report.lost,
            ms=report.duration_ms,
        )
