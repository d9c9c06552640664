"""Explains why a queued job waits, by the same rules that place jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from taskyard.jobs.model import Job
from taskyard.workers.model import Usage, Worker
from taskyard.workers.places import (
    DRAINING,
    OFFLINE,
    Place,
    could_never,
    obstacle,
    place_of,
    refuses,
    unavailable,
)

#: The reason shown for a worker that has a place for the job.
FITS = "fits"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why a job waits: one sentence, and for each worker why the job is not there."""

    reason: str
    workers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The workers at one moment, read once for all the jobs that are to be explained."""

    spots: Sequence[Place]
    #: Why each worker may not be given any job, or None; in the order of ``spots``.
    away: Sequence[str | None]
    anyone_online: bool

    def explain(self, job: Job, *, ahead: int | None = None) -> Waiting:
        """Say why a queued job waits; ``ahead`` jobs come before it, if that was counted."""
        needed = job.requirement
        workers = {
            spot.worker.worker_id: away or obstacle(spot, job, needed) or FITS
            for spot, away in zip(self.spots, self.away, strict=True)
        }
        return Waiting(reason=self.reason(job, ahead=ahead), workers=workers)

    def reason(self, job: Job, *, ahead: int | None = None) -> str:
        """Return the sentence alone: the most fundamental obstacle that no worker is free of."""
        if not self.spots:
            return "no worker is registered"
        healthy = [spot for spot, away in zip(self.spots, self.away, strict=True) if not away]
        if not healthy:
            return self._nobody()
        needed = job.requirement
        labelled = [spot for spot in healthy if needed.labels.issubset(spot.worker.labels)]
        if not labelled:
            return f"no healthy worker has label {', '.join(sorted(needed.labels))}"
        large = [spot for spot in labelled if could_never(spot.worker, needed) is None]
        if not large:
            return (
                f"larger than every worker ({job.required_cpu:g} CPUs, "
                f"{job.required_ram_mb} MB asked for)"
            )
        if all(refuses(spot.worker, job) for spot in large):
            return "every worker that could hold it lost it before, and has not registered anew"
        if any(obstacle(spot, job, needed) is None for spot in large):
            return "about to be placed"
        count = "" if ahead is None else f", {ahead} ahead"
        return f"all workers that could hold it are busy{count}"

    def _nobody(self) -> str:
        """Return the sentence for the case that no worker may be given any job."""
        if not self.anyone_online:
            return "no worker is online"
        if set(self.away) <= {DRAINING, OFFLINE}:
            return "every worker that is online is draining"
        return "no worker is healthy"


def look(
    workers: Sequence[Worker],
    usage: Mapping[str, Usage],
    *,
    now: datetime,
    offline_after: timedelta,
) -> Sight:
    """Take the sight of these workers, from which any number of jobs can be explained."""
    spots = [place_of(worker, usage) for worker in workers]
    for spot in spots:
        spot.reserved_for = spot.worker.reserved_for
    return Sight(
        spots=spots,
        away=[unavailable(worker, now, offline_after) for worker in workers],
        anyone_online=any(not worker.is_offline(now, offline_after) for worker in workers),
    )
