"""Why a queued job waits, by the same judge that places jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from taskyard.jobs.model import Job
from taskyard.workers.model import Usage, Worker
from taskyard.workers.places import could_never, fits, place_of, refuses, unavailable


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why a job waits: one sentence, and the reason of each worker."""

    reason: str
    workers: Mapping[str, str] = field(default_factory=dict)


def explain(
    job: Job,
    workers: Sequence[Worker],
    usage: Mapping[str, Usage],
    *,
    now: datetime,
    offline_after: timedelta,
    ahead: int | None = None,
) -> Waiting:
    """Say why a queued job waits; ``ahead`` jobs come before it, if that was counted."""
    reasons: dict[str, str] = {}
    for worker in workers:
        away = unavailable(worker, now, offline_after)
        spot = place_of(worker, usage)
        spot.reserved_for = worker.reserved_for
        reasons[worker.worker_id] = away or refuses(worker, job) or fits(spot, job) or "fits"
    return Waiting(
        reason=_sentence(job, workers, reasons, now, offline_after, ahead), workers=reasons
    )


def _sentence(
    job: Job,
    workers: Sequence[Worker],
    reasons: Mapping[str, str],
    now: datetime,
    offline_after: timedelta,
    ahead: int | None,
) -> str:
    """The commonest obstacle, from the most to the least fundamental."""
    if not workers:
        return "no worker is registered"
    healthy = [w for w in workers if unavailable(w, now, offline_after) is None]
    if not healthy:
        online = any(not w.is_offline(now, offline_after) for w in workers)
        return "no worker is healthy" if online else "no worker is online"
    needed = job.requirement
    labelled = [w for w in healthy if needed.labels <= set(w.labels)]
    if not labelled:
        return f"no healthy worker has label {', '.join(sorted(needed.labels))}"
    if all(could_never(w, needed) for w in labelled):
        return f"larger than every worker ({needed.cpu:g} CPUs, {needed.ram_mb} MB asked for)"
    if any(reason == "fits" for reason in reasons.values()):
        return "about to be placed"
    count = "" if ahead is None else f", {ahead} ahead"
    return f"all workers that could hold it are busy{count}"
