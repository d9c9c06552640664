"""Which queued job goes to which worker: one pure function."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from taskyard.jobs.model import Job
from taskyard.workers.model import Requirement
from taskyard.workers.places import Place, closed, could_never, too_full


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one pass decided."""

    #: ``(job, worker id)`` in queue order.
    placements: Sequence[tuple[Job, str]] = ()
    #: Worker id -> job id that its freed places are kept for; the whole new state.
    reservations: Mapping[str, str] = field(default_factory=dict)


def place(
    queue: Sequence[Job],
    available: Sequence[Place],
    *,
    now: datetime,
    reserve_after: timedelta,
    still_queued: Collection[str] = (),
) -> Plan:
    """Place as much of ``queue`` (in its order) on ``available`` as fits.

    A job that fits nowhere does not hold back the ones behind it; once it has waited for
    ``reserve_after`` it reserves a worker that could hold it. ``still_queued`` are the jobs
    whose earlier reservation stays valid.
    """
    for spot in available:
        kept = spot.worker.reserved_for
        spot.reserved_for = kept if kept in still_queued else None
    placements: list[tuple[Job, str]] = []
    candidates: dict[str, list[tuple[float, int]]] = {}
    for job in queue:
        needed = job.requirement
        key = job.shape or needed.shape
        if key not in candidates:
            candidates[key] = _candidates(available, needed)
        best = _best(available, candidates[key], job)
        if best is not None:
            best.take(job)
            best.reserved_for = None if best.reserved_for == job.job_id else best.reserved_for
            placements.append((job, best.worker.worker_id))
        elif now - job.queued_at > reserve_after and not (job.is_suspect and candidates[key]):
            # A suspect that a place is large enough for waits for another suspect to end.
            _reserve(available, needed, job.job_id)
    reservations = {s.worker.worker_id: s.reserved_for for s in available if s.reserved_for}
    return Plan(placements=placements, reservations=reservations)


def _candidates(available: Sequence[Place], needed: Requirement) -> list[tuple[float, int]]:
    """A heap of the places that could take the shape, by score; ties go by position."""
    heap = [
        (spot.score, index)
        for index, spot in enumerate(available)
        if not (could_never(spot.worker, needed) or too_full(spot, needed))
    ]
    heapq.heapify(heap)
    return heap


def _best(available: Sequence[Place], heap: list[tuple[float, int]], job: Job) -> Place | None:
    """The best place that still fits. Scores only rise while a pass fills places, so an entry
    that is out of date is put back with its new score, and one that no longer fits is dropped.
    """
    shut: list[tuple[float, int]] = []
    found = None
    while heap and found is None:
        score, index = heapq.heappop(heap)
        spot = available[index]
        if too_full(spot, job.requirement):
            continue
        if closed(spot, job):
            shut.append((score, index))
        elif score < spot.score:
            heapq.heappush(heap, (spot.score, index))
        else:
            found = spot
            heapq.heappush(heap, (score, index))
    for entry in shut:
        heapq.heappush(heap, entry)
    return found


def _reserve(available: Sequence[Place], needed: Requirement, job_id: str) -> None:
    """Keep the least loaded worker that could ever hold the job; at most half are kept."""
    reserved = [spot for spot in available if spot.reserved_for]
    if any(spot.reserved_for == job_id for spot in reserved):
        return
    if len(reserved) >= max(1, len(available) // 2):
        return
    able = [s for s in available if not s.reserved_for and not could_never(s.worker, needed)]
    if able:
        min(able, key=lambda spot: spot.score).reserved_for = job_id
