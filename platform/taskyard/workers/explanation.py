"""Why a queued job waits, by the same judge that places jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from taskyard.jobs.model import Job
from taskyard.workers.model import Usage, Worker
from taskyard.workers.places import (
    Place,
    closed,
    could_never,
    place_of,
    refuses,
    too_full,
    unavailable,
)

#: What is told of a worker that nothing speaks against.
FITS = "fits"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why a job waits: one sentence, and the reason of each worker."""

    reason: str
    workers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The workers at one moment: looked at once, whatever number of jobs is explained."""

    workers: Sequence[Worker]
    #: Why each worker may not be given anything, or None; in the order of ``workers``.
    away: Sequence[str | None]
    spots: Sequence[Place]
    anyone_online: bool

    def explain(self, job: Job, *, ahead: int | None = None) -> Waiting:
        """Say why a queued job waits; ``ahead`` jobs come before it, if that was counted."""
        needed = job.requirement
        never = [could_never(worker, needed) for worker in self.workers]
        reasons = {
            spot.worker.worker_id: away
            or refuses(spot.worker, job)
            or too_small
            or closed(spot, job)
            or too_full(spot, needed)
            or FITS
            for away, spot, too_small in zip(self.away, self.spots, never, strict=True)
        }
        return Waiting(reason=self._sentence(job, never, reasons, ahead), workers=reasons)

    def _sentence(
        self,
        job: Job,
        never: Sequence[str | None],
        reasons: Mapping[str, str],
        ahead: int | None,
    ) -> str:
        """The commonest obstacle, from the most to the least fundamental."""
        if not self.workers:
            return "no worker is registered"
        healthy = [
            (worker, too_small)
            for worker, away, too_small in zip(self.workers, self.away, never, strict=True)
            if away is None
        ]
        if not healthy:
            return "no worker is healthy" if self.anyone_online else "no worker is online"
        labels = job.requirement.labels
        labelled = [too_small for worker, too_small in healthy if labels.issubset(worker.labels)]
        if not labelled:
            return f"no healthy worker has label {', '.join(sorted(labels))}"
        if all(labelled):
            return (
                f"larger than every worker ({job.required_cpu:g} CPUs, "
                f"{job.required_ram_mb} MB asked for)"
            )
        if FITS in reasons.values():
            return "about to be placed"
        count = "" if ahead is None else f", {ahead} ahead"
        return f"all workers that could hold it are busy{count}"


def look(
    workers: Sequence[Worker],
    usage: Mapping[str, Usage],
    *,
    now: datetime,
    offline_after: timedelta,
) -> Sight:
    """What there is to say of the workers, whichever job it is said to."""
    spots = [place_of(worker, usage) for worker in workers]
    for spot in spots:
        spot.reserved_for = spot.worker.reserved_for
    return Sight(
        workers=workers,
        away=[unavailable(worker, now, offline_after) for worker in workers],
        spots=spots,
        anyone_online=any(not worker.is_offline(now, offline_after) for worker in workers),
    )


def explain(
    job: Job,
    workers: Sequence[Worker],
    usage: Mapping[str, Usage],
    *,
    now: datetime,
    offline_after: timedelta,
    ahead: int | None = None,
) -> Waiting:
    """Say why one queued job waits."""
    sight = look(workers, usage, now=now, offline_after=offline_after)
    return sight.explain(job, ahead=ahead)
