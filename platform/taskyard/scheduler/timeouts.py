"""The expiry sweep: requeues or ends jobs whose lease is over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from taskyard import events
from taskyard.clock import RESYNC_SECONDS
from taskyard.jobs import lifecycle
from taskyard.jobs.counters import Counter
from taskyard.jobs.states import JobStatus, Verb
from taskyard.jobs.transition import Moment, Transition
from taskyard.settings import Settings
from taskyard.store.client import Store

#: Most jobs that one sweep expires; the next sweep is two seconds away.
AT_ONCE = 500

#: A sweep that comes more than this many intervals after the last follows an outage.
OUTAGE_INTERVALS = 3

#: How long an agent may need after an outage until its renewal is written: it tries again every
#: half second, on a connection that it may have to open anew.
RENEWAL_SLACK_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class TimeoutsReport:
    """What one sweep did."""

    held_back: bool = False
    requeued: int = 0
    ended: int = 0


def tick(store: Store, settings: Settings) -> TimeoutsReport:
    """Expire the jobs that are overdue, unless an outage has just ended.

    While nothing could be written, no lease could be renewed either: after such a gap every agent
    gets one full lease before anything is expired.
    """
    now = store.clock.now()
    if not _may_expire(store, settings, now):
        store.counters.add({Counter.SWEEPS_HELD_BACK: 1})
        return TimeoutsReport(held_back=True)
    expired = _expire(store, settings, now)
    requeued = sum(1 for transition in expired if transition.to is JobStatus.QUEUED)
    report = TimeoutsReport(requeued=requeued, ended=len(expired) - requeued)
    if expired:
        events.warn("scheduler.expired", requeued=report.requeued, ended=report.ended)
    return report


def outage_gap(settings: Settings) -> timedelta:
    """Return the longest gap between two sweeps that does not count as an outage.

    An agent whose renewal was due just when the outage began still has a lease for
    ``lease - renewal`` (10 s). As long as that, less the slack for renewing, is not shorter than
    the gap (6 s), an outage within the gap costs nobody a lease, and a longer one holds the sweep
    back. With leases too short for that, a sweep that is half an interval late follows an outage.
    """
    interval = settings.timeouts_tick_seconds
    spare = settings.lease_seconds - settings.renewal_seconds - RENEWAL_SLACK_SECONDS
    return timedelta(seconds=max(1.5 * interval, min(OUTAGE_INTERVALS * interval, spare)))


def outage_hold(settings: Settings) -> timedelta:
    """Return how long nothing is expired after an outage: a bit more than one full lease.

    The addition is the time in which other processes may not have noticed that the database's clock
    was set.
    """
    lease = max(settings.lease_seconds, settings.http_lease_seconds)
    return timedelta(seconds=RESYNC_SECONDS + lease)


def _may_expire(store: Store, settings: Settings, now: datetime) -> bool:
    hold = outage_hold(settings)
    held_until = store.locks.note_sweep(now=now, gap=outage_gap(settings), hold=hold)
    if held_until == now + hold:
        events.warn("scheduler.outage_over", held_seconds=hold.total_seconds())
    return held_until is None or held_until <= now


def _expire(store: Store, settings: Settings, now: datetime) -> list[Transition]:
    """Expire the overdue jobs, except those that were renewed or written by another meanwhile.

    They are one write: where writes wait for a distant majority, a write for each job would take
    longer than the gap after which the next sweep holds itself back.

    ``now`` has to be the instant at which the sweep was found not to be held back: a scheduler that
    is paused after that must not judge by the time at which it wakes.
    """
    at = Moment(now=now, keep=settings.job_retention)
    overdue = store.live.overdue(now, limit=AT_ONCE)
    decided = [transition for job in overdue if (transition := lifecycle.expire(job, at=at))]
    # Only lost workers: one that was heard of all the time, and did not end a job in time, is not.
    # Before the jobs are free: a pass in between would give them back to it, as it looks idle.
    lost = [transition.job for transition in decided if transition.verb is Verb.EXPIRE]
    if lost:
        store.workers.suspend(lost, now=now)
    return store.jobs.apply_all(decided)
