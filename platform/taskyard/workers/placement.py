"""Which queued job goes to which worker, and why the others wait: one pure function each.

Weights and the CPU limit are the earlier system's (``design.md`` section 5).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from taskyard.jobs.model import Job
from taskyard.workers.model import NOTHING, Requirement, Usage, Worker

#: A worker whose measured CPU use is above this gets nothing new.
CPU_USAGE_LIMIT_PERCENT = 90

#: Ten tenths of a CPU are one CPU, whatever binary fractions make of it.
CPU_SLACK = 1e-9


@dataclass(kw_only=True)
class Place:
    """A worker with what it has in use; a pass fills it as it places jobs."""

    worker: Worker
    cpu: float = 0
    ram_mb: int = 0
    jobs: int = 0
    suspects: int = 0
    reserved_for: str | None = None

    def take(self, job: Job) -> None:
        """Count one more job in."""
        self.cpu += job.required_cpu
        self.ram_mb += job.required_ram_mb
        self.jobs += 1
        self.suspects += job.is_suspect

    @property
    def score(self) -> float:
        """Lower is better: load first, then a small preference for headroom."""
        worker = self.worker
        cpu_percent = 100 * self.cpu / worker.cpu_count if worker.cpu_count else 100
        ram_percent = 100 * self.ram_mb / worker.ram_total_mb if worker.ram_total_mb else 100
        load = worker.cpu_usage * 0.6 + cpu_percent * 0.3 + ram_percent * 0.1
        headroom = (worker.cpu_count - self.cpu) * 0.01 + worker.ram_free_mb * 1e-6
        return load - headroom


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one pass decided."""

    #: ``(job, worker id)`` in queue order.
    placements: Sequence[tuple[Job, str]] = ()
    #: Worker id -> job id that its freed places are kept for; the whole new state.
    reservations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why a job waits: one sentence, and the reason of each worker."""

    reason: str
    workers: Mapping[str, str] = field(default_factory=dict)


def places(
    workers: Iterable[Worker], usage: Mapping[str, Usage], now: datetime, offline_after: timedelta
) -> list[Place]:
    """The workers that may be given work now, with what they have in use."""
    return [
        _place(worker, usage)
        for worker in workers
        if _unavailable(worker, now, offline_after) is None
    ]


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


def fits(spot: Place, job: Job) -> str | None:
    """Why a job does not fit on ``spot`` now, or None when it does."""
    return (
        _could_never(spot.worker, job.requirement)
        or _closed(spot, job)
        or _too_full(spot, job.requirement)
    )


def refuses(worker: Worker, job: Job) -> str | None:
    """Why this worker may not have this job back, or None.

    A worker that sends no attempt and lost the job could pass its old result for a new
    attempt's; it gets the job again once it registers anew (design, hard cases).
    """
    if worker.kind == "http" and not worker.fenced and worker.boot in job.lost_on:
        return "lost this job before; it may have it again once it registers anew"
    return None


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
        away = _unavailable(worker, now, offline_after)
        spot = _place(worker, usage)
        spot.reserved_for = worker.reserved_for
        reasons[worker.worker_id] = away or refuses(worker, job) or fits(spot, job) or "fits"
    return Waiting(
        reason=_sentence(job, workers, reasons, now, offline_after, ahead), workers=reasons
    )


def _place(worker: Worker, usage: Mapping[str, Usage]) -> Place:
    used = usage.get(worker.worker_id, NOTHING)
    return Place(
        worker=worker,
        cpu=used.cpu,
        ram_mb=used.ram_mb,
        jobs=used.jobs,
        suspects=used.suspects,
    )


def _candidates(available: Sequence[Place], needed: Requirement) -> list[tuple[float, int]]:
    """A heap of the places that could take the shape, by score; ties go by position."""
    heap = [
        (spot.score, index)
        for index, spot in enumerate(available)
        if not (_could_never(spot.worker, needed) or _too_full(spot, needed))
    ]
    heapq.heapify(heap)
    return heap


def _best(available: Sequence[Place], heap: list[tuple[float, int]], job: Job) -> Place | None:
    """The best place that still fits. Scores only rise while a pass fills places, so an entry
    that is out of date is put back with its new score, and one that no longer fits is dropped.
    """
    closed: list[tuple[float, int]] = []
    found = None
    while heap and found is None:
        score, index = heapq.heappop(heap)
        spot = available[index]
        if _too_full(spot, job.requirement):
            continue
        if _closed(spot, job):
            closed.append((score, index))
        elif score < spot.score:
            heapq.heappush(heap, (spot.score, index))
        else:
            found = spot
            heapq.heappush(heap, (score, index))
    for entry in closed:
        heapq.heappush(heap, entry)
    return found


def _reserve(available: Sequence[Place], needed: Requirement, job_id: str) -> None:
    """Keep the least loaded worker that could ever hold the job; at most half are kept."""
    reserved = [spot for spot in available if spot.reserved_for]
    if any(spot.reserved_for == job_id for spot in reserved):
        return
    if len(reserved) >= max(1, len(available) // 2):
        return
    able = [s for s in available if not s.reserved_for and not _could_never(s.worker, needed)]
    if able:
        min(able, key=lambda spot: spot.score).reserved_for = job_id


def _could_never(worker: Worker, needed: Requirement) -> str | None:
    """Why the worker could not hold the job even when empty, or None."""
    if missing := needed.labels - set(worker.labels):
        return f"has no label {', '.join(sorted(missing))}"
    if worker.cpu_count < needed.cpu:
        return f"has {worker.cpu_count:g} CPUs, {needed.cpu:g} are asked for"
    if worker.ram_total_mb < needed.ram_mb:
        return f"has {worker.ram_total_mb} MB memory, {needed.ram_mb} are asked for"
    return None


def _closed(spot: Place, job: Job) -> str | None:
    """Why the place is not for this very job, whatever it needs, or None."""
    if spot.reserved_for not in (None, job.job_id):
        return "its next free place is kept for a larger job"
    if job.is_suspect and spot.suspects:
        # Which of two killed their worker could not be told: the innocent one would be poison too.
        return "runs another job that has lost its workers"
    return None


def _too_full(spot: Place, needed: Requirement) -> str | None:
    """Why so much is not free on the place now, or None."""
    if spot.worker.max_jobs and spot.jobs >= spot.worker.max_jobs:
        return f"runs {spot.jobs} of at most {spot.worker.max_jobs} jobs"
    if spot.worker.cpu_count - spot.cpu < needed.cpu - CPU_SLACK:
        free = max(0.0, spot.worker.cpu_count - spot.cpu)
        return f"{free:g} of {spot.worker.cpu_count:g} CPUs free"
    if spot.worker.ram_total_mb - spot.ram_mb < needed.ram_mb:
        free_mb = max(0, spot.worker.ram_total_mb - spot.ram_mb)
        return f"{free_mb} of {spot.worker.ram_total_mb} MB memory free"
    if spot.worker.cpu_usage > CPU_USAGE_LIMIT_PERCENT:
        return f"CPU is {spot.worker.cpu_usage:.0f} % busy"
    return None


def _unavailable(worker: Worker, now: datetime, offline_after: timedelta) -> str | None:
    """Why the worker may not be given anything now, or None."""
    if worker.soft_deleted:
        return "is deleted"
    if worker.is_offline(now, offline_after):
        return "is offline"
    if worker.draining:
        return "is draining"
    return worker.trouble(now)


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
    healthy = [w for w in workers if _unavailable(w, now, offline_after) is None]
    if not healthy:
        online = any(not w.is_offline(now, offline_after) for w in workers)
        return "no worker is healthy" if online else "no worker is online"
    needed = job.requirement
    labelled = [w for w in healthy if needed.labels <= set(w.labels)]
    if not labelled:
        return f"no healthy worker has label {', '.join(sorted(needed.labels))}"
    if all(_could_never(w, needed) for w in labelled):
        return f"larger than every worker ({needed.cpu:g} CPUs, {needed.ram_mb} MB asked for)"
    if any(reason == "fits" for reason in reasons.values()):
        return "about to be placed"
    count = "" if ahead is None else f", {ahead} ahead"
    return f"all workers that could hold it are busy{count}"
