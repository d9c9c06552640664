"""One action on all jobs that a search finds: they are counted first, then changed batch by batch.
Each job is changed by its own guarded verb; those of a batch are written together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from taskyard import events, operations
from taskyard.clock import epoch_ms
from taskyard.context import Platform
from taskyard.errors import Conflict, InvalidRequest, NotFound
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job
from taskyard.jobs.search import Comparison, Search, created, in_states
from taskyard.jobs.states import LIVE, TERMINAL
from taskyard.store.queries import Count
from taskyard.store.searches import Position

#: How many jobs one batch acts on: a batch is one request.
BATCH = 200

#: How far another web process's measurement of the database's time may be ahead of ours.
_CLOCKS_DIFFER = timedelta(seconds=5)


class Action(StrEnum):
    """What can be done to many jobs at once."""

    CANCEL = "cancel"
    RETRY = "retry"


_STATES = {Action.CANCEL: LIVE, Action.RETRY: TERMINAL}


@dataclass(frozen=True, kw_only=True)
class Task:
    """An action, and the jobs that it is meant for.

    Only jobs that were created before ``as_of`` are meant, so that neither the jobs that a retry
    makes nor those that arrive meanwhile are acted on.
    """

    action: Action
    search: Search
    as_of: datetime
    by: str
    reason: str | None

    @property
    def meant(self) -> Search:
        """The search for the jobs that the action is meant for and may be done to."""
        return self.search & in_states(_STATES[self.action]) & created(Comparison.BELOW, self.as_of)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one batch did; the next batch begins behind ``next``, or there is none."""

    #: Jobs that were cancelled, or the new jobs of a retry.
    job_ids: Sequence[str] = field(default_factory=list)
    #: How many jobs ended, were removed, or were asked to stop before their turn came.
    skipped: int = 0
    next: Position | None = None


def bound(given: datetime | None, *, now: datetime, field: str) -> datetime:
    """The instant that bounds a task: the dry run's, or now. Raises InvalidRequest if later."""
    if given is not None and given > now + _CLOCKS_DIFFER:
        raise InvalidRequest("What is yet to be created is never meant.", field=field)
    return given or now


def count(platform: Platform, task: Task) -> Count:
    """The dry run: how many jobs are meant."""
    return platform.store.queries.count(task.meant)


def act(platform: Platform, task: Task, *, after: Position | None = None) -> Batch:
    """Do the next batch; repeating a batch does nothing twice."""
    page = platform.store.queries.page(task.meant, limit=BATCH, after=after)
    do = _cancel if task.action is Action.CANCEL else _retry
    job_ids = do(platform, task, page.jobs)
    skipped = len(page.jobs) - len(job_ids)
    events.emit("jobs.acted_on", action=str(task.action), jobs=len(job_ids), skipped=skipped)
    return Batch(job_ids=job_ids, skipped=skipped, next=page.next)


def _cancel(platform: Platform, task: Task, jobs: Sequence[Job]) -> list[str]:
    meant = [job for job in jobs if not job.cancel_requested]
    at = platform.moment()
    wanted = [lifecycle.cancel(job, by=task.by, reason=task.reason, at=at) for job in meant]
    done = {transition.job_id for transition in platform.store.jobs.apply_all(wanted)}
    moved_meanwhile = [job.job_id for job in meant if job.job_id not in done]
    done.update(job_id for job_id in moved_meanwhile if _cancel_alone(platform, task, job_id))
    return [job.job_id for job in meant if job.job_id in done]


def _cancel_alone(platform: Platform, task: Task, job_id: str) -> bool:
    try:
        operations.cancel(platform, job_id, by=task.by, reason=task.reason)
    except (Conflict, NotFound):
        return False
    return True


def _retry(platform: Platform, task: Task, jobs: Sequence[Job]) -> list[str]:
    """Submit retries. A new id is derived from the old one and ``as_of``, so that a batch that is
    sent again because its answer was lost makes no second job.
    """
    ended = platform.store.queries.in_full([job.job_id for job in jobs])
    fresh = [
        operations.anew(platform, job, job_id=_id_of_retry(job, task.as_of), by=task.by)
        for job in ended
    ]
    if fresh:
        platform.store.jobs.submit(fresh)
        platform.nudge("retry")
    return [job.job_id for job in fresh]


def _id_of_retry(job: Job, as_of: datetime) -> str:
    digest = hashlib.sha256(f"{job.job_id} {as_of.isoformat()}".encode()).hexdigest()
    return f"job-{epoch_ms(as_of)}-{digest[:12]}"
