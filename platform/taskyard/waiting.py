"""Why jobs wait, from one look at the workers; by the function that places them."""

from __future__ import annotations

from collections.abc import Sequence
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
    return {
        job.job_id: explanation.explain(
            job, workers, usage, now=now, offline_after=offline_after, ahead=ahead
        )
        for job in queued
    }
