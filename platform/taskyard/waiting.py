"""Why jobs wait, from one look at the workers; by the function that places them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from datetime import timedelta

from taskyard.context import Platform
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.workers import explanation
from taskyard.workers.explanation import Waiting


def explain(here: Platform, jobs: Sequence[Job]) -> dict[str, Waiting]:
    """Why each of ``jobs`` that is queued waits, by job id."""
    queued = [job for job in jobs if job.status is JobStatus.QUEUED]
    if not queued:
        return {}
    store = here.store
    workers, usage, now = store.workers.listed(), store.queries.usage(), store.clock.now()
    offline_after = timedelta(seconds=here.settings.offline_seconds)
    # Counting what is ahead is a query of its own: done for one job, not for a page of them.
    ahead = store.queries.ahead_of(queued[0]) if len(jobs) == 1 else None
    sight = explanation.look(workers, usage, now=now, offline_after=offline_after)
    reserving = {worker.reserved_for for worker in workers}
    alike: dict[Hashable, Waiting] = {}
    found: dict[str, Waiting] = {}
    for job in queued:
        kind = _kind(job, reserving)
        if kind not in alike:
            alike[kind] = sight.explain(job, ahead=ahead)
        found[job.job_id] = alike[kind]
    return found


def _kind(job: Job, reserving: Collection[str | None]) -> Hashable:
    """Jobs of one kind wait for one reason: all that a worker is judged by is the same of them.

    A page of queued jobs is mostly one or two kinds, and each look at all workers costs.
    """
    kept_for = job.job_id if job.job_id in reserving else None
    return job.shape, job.is_suspect, job.lost_on, kept_for
