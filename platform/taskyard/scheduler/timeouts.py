"""The expiry sweep: jobs whose lease is over go back to the queue, or end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from taskyard import events
from taskyard.jobs import lifecycle
from taskyard.jobs.counters import Counter
from taskyard.jobs.lifecycle import Moment
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.settings import Settings
from taskyard.store.client import Store

#: Jobs that one sweep takes; the next is two seconds away.
AT_ONCE = 500

#: A sweep that comes this many intervals after the last follows an outage.
OUTAGE_INTERVALS = 3


@dataclass(frozen=True, kw_only=True)
class TimeoutsReport:
    """What one sweep did."""

    held_back: bool = False
    requeued: int = 0
    ended: int = 0


def tick(store: Store, settings: Settings) -> TimeoutsReport:
    """Expire what is overdue, unless an outage has just ended.

    While nothing could be written nobody could renew either: after such a gap everybody gets
    one full lease before anything is expired.
    """
    now = store.clock.now()
    if _hold_back(store, settings, now):
        store.counters.add({Counter.SWEEPS_HELD_BACK: 1})
        return TimeoutsReport(held_back=True)
    expired = [_expire(store, settings, job) for job in store.queries.overdue(now, limit=AT_ONCE)]
    moved = [job for job in expired if job is not None]
    requeued = sum(1 for job in moved if job.status is JobStatus.QUEUED)
    report = TimeoutsReport(requeued=requeued, ended=len(moved) - requeued)
    if moved:
        events.warn("scheduler.expired", requeued=report.requeued, ended=report.ended)
    return report


def _hold_back(store: Store, settings: Settings, now: datetime) -> bool:
    before = store.locks.note_tick("timeouts", now=now)
    gap = timedelta(seconds=settings.timeouts_tick_seconds * OUTAGE_INTERVALS)
    lease = timedelta(seconds=max(settings.lease_seconds, settings.http_lease_seconds))
    if before is not None and now - before > gap:
        events.warn("scheduler.outage_over", gap_seconds=(now - before).total_seconds())
        store.locks.hold("timeouts", until=now + lease)
    return store.locks.held("timeouts", now=now)


def _expire(store: Store, settings: Settings, job: Job) -> Job | None:
    """Expire one job; None when somebody was faster or the lease was renewed meanwhile."""
    worker = store.workers.find(job.assigned_agent_id or "")
    at = Moment(now=store.clock.now(), keep=timedelta(days=settings.job_retention_days))
    transition = lifecycle.expire(job, at=at, boot=worker.boot if worker else None)
    moved = store.jobs.apply(transition) if transition else None
    if moved is not None and job.assigned_agent_id:
        store.workers.suspend(job.assigned_agent_id, now=at.now)
    return moved
