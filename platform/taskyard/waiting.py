"""Why jobs wait, from one look at the workers, by the rules that place jobs."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

from taskyard.context import Platform
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.workers import explanation
from taskyard.workers.explanation import Sight, Waiting


def explain(here: Platform, job: Job) -> Waiting | None:
    """Why the job waits, by each worker, and how many jobs are ahead; None unless it is queued."""
    if job.status is not JobStatus.QUEUED:
        return None
    return _look(here).explain(job, ahead=here.store.live.ahead_of(job))


def reason(here: Platform, job: Job) -> str | None:
    """Why the job waits, in a sentence; None unless it is queued.

    All who ask share a look at the workers: there may be hundreds of either.
    """
    if job.status is not JobStatus.QUEUED:
        return None
    sight = here.store.feed.shared("workers", lambda: _look(here))
    return sight.reason(job, ahead=here.store.live.ahead_of(job))


def reasons(here: Platform, jobs: Sequence[Job]) -> dict[str, str]:
    """Why each queued job among ``jobs`` waits, in a sentence, by job id.

    The sentence leaves out how many jobs are ahead: counting them takes a query for every job.
    """
    queued = [job for job in jobs if job.status is JobStatus.QUEUED]
    if not queued:
        return {}
    sight = _look(here)
    reserving = {spot.reserved_for for spot in sight.spots}
    alike: dict[Hashable, str] = {}
    found: dict[str, str] = {}
    for job in queued:
        kind = _kind(job, reserving)
        if kind not in alike:
            alike[kind] = sight.reason(job)
        found[job.job_id] = alike[kind]
    return found


def _look(here: Platform) -> Sight:
    return explanation.look(
        here.store.workers.listed(),
        here.store.live.usage(),
        now=here.store.clock.now(),
        offline_after=here.settings.offline_after,
    )


def _kind(job: Job, reserving: Collection[str | None]) -> Hashable:
    """Jobs of the same kind wait for the same reason: the rules see no difference between them.

    A page of queued jobs mostly has one or two kinds, and each look at all workers costs.
    """
    kept_for = job.job_id if job.job_id in reserving else None
    return job.shape, job.is_suspect, job.lost_on, kept_for
