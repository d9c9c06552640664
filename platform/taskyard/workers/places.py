"""What a worker has free, and why a job does not fit there: the only rules for both.

The weights of the score are those of the earlier system, whose API is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from taskyard.jobs.model import Job
from taskyard.workers.model import NOTHING, Requirement, Usage, Worker

#: A worker whose measured CPU use is above this is chosen when no other has room
#: (``docs/decisions/0011-busy-hosts.md``).
CPU_USAGE_LIMIT_PERCENT = 90

#: What a busy host adds to its score: more than load and headroom ever come to.
_BUSY_HOST = 1e6

#: Why a worker that is being drained, or is not heard of, may not be given any job.
DRAINING = "is draining"
OFFLINE = "is offline"

#: Tolerance for CPUs: ten tenths are one CPU, whatever binary fractions make of them.
CPU_SLACK = 1e-9


@dataclass(kw_only=True)
class Place:
    """A worker with what it has in use; a pass fills it as it places jobs there."""

    worker: Worker
    cpu: float = 0
    ram_mb: int = 0
    jobs: int = 0
    suspects: int = 0
    reserved_for: str | None = None
    #: Lower is better; rises with each job that the place takes.
    score: float = field(init=False)

    def __post_init__(self) -> None:
        self.score = _score(self)

    def take(self, job: Job) -> None:
        """Count one more job in."""
        self.cpu += job.required_cpu
        self.ram_mb += job.required_ram_mb
        self.jobs += 1
        self.suspects += job.is_suspect
        self.score = _score(self)

    def room_for(self, needed: Requirement, *, at_most: int) -> int:
        """Return how many jobs of this requirement fit beside what is in use."""
        worker = self.worker
        by_cpu = (worker.cpu_count - self.cpu + CPU_SLACK) // needed.cpu
        by_ram = (worker.ram_total_mb - self.ram_mb) // needed.ram_mb
        by_jobs = worker.max_jobs - self.jobs if worker.max_jobs else at_most
        return max(0, int(min(by_cpu, by_ram, by_jobs, at_most)))

    @property
    def is_full(self) -> bool:
        """Whether not even the smallest job would fit."""
        worker = self.worker
        slots = worker.max_jobs and self.jobs >= worker.max_jobs
        no_cpu = worker.cpu_count - self.cpu <= CPU_SLACK
        return bool(slots or no_cpu or self.ram_mb >= worker.ram_total_mb)


def _score(spot: Place) -> float:
    """Return the load, less a little for headroom; a busy host comes after all others."""
    worker = spot.worker
    cpu_percent = 100 * spot.cpu / worker.cpu_count if worker.cpu_count else 100
    ram_percent = 100 * spot.ram_mb / worker.ram_total_mb if worker.ram_total_mb else 100
    load = worker.cpu_usage * 0.6 + cpu_percent * 0.3 + ram_percent * 0.1
    headroom = (worker.cpu_count - spot.cpu) * 0.01 + worker.ram_free_mb * 1e-6
    busy = _BUSY_HOST if worker.cpu_usage > CPU_USAGE_LIMIT_PERCENT else 0
    return load - headroom + busy


def places(
    workers: Iterable[Worker], usage: Mapping[str, Usage], now: datetime, offline_after: timedelta
) -> list[Place]:
    """Return the workers that may be given jobs now, with what they have in use."""
    return [
        place_of(worker, usage)
        for worker in workers
        if unavailable(worker, now, offline_after) is None
    ]


def room_on(available: Iterable[Place], needed: Requirement, *, at_most: int) -> int:
    """Return how many jobs of this requirement fit on these places, up to ``at_most``."""
    room = 0
    for spot in available:
        if not could_never(spot.worker, needed):
            room += spot.room_for(needed, at_most=at_most - room)
        if room >= at_most:
            break
    return room


def place_of(worker: Worker, usage: Mapping[str, Usage]) -> Place:
    """Return the worker with what it has in use, whether it may be given jobs or not."""
    used = usage.get(worker.worker_id, NOTHING)
    return Place(
        worker=worker,
        cpu=used.cpu,
        ram_mb=used.ram_mb,
        jobs=used.jobs,
        suspects=used.suspects,
    )


def obstacle(spot: Place, job: Job, needed: Requirement) -> str | None:
    """Return why a job does not fit on ``spot`` now, or None if it does.

    ``needed`` is its requirement, which the caller makes once for all places.
    """
    return (
        refuses(spot.worker, job)
        or could_never(spot.worker, needed)
        or closed(spot, job)
        or too_full(spot, needed)
    )


def needs_no_more(job: Job, other: Job) -> bool:
    """Whether the place of ``other`` would be large enough for the job."""
    return job.required_cpu <= other.required_cpu and job.required_ram_mb <= other.required_ram_mb


def refuses(worker: Worker, job: Job) -> str | None:
    """Return why this worker may not have this job back, or None.

    A worker that sends no attempt and has lost the job could pass off its old result as that of a
    new attempt; it may have the job again once it registers anew (``docs/lifecycle.md``).
    """
    if worker.kind == "http" and not worker.fenced and worker.boot in job.lost_on:
        return "lost this job before; it may have it again once it registers anew"
    return None


def could_never(worker: Worker, needed: Requirement) -> str | None:
    """Return why the worker could not hold the job even when empty, or None."""
    if needed.labels and (missing := needed.labels.difference(worker.labels)):
        return f"has no label {', '.join(sorted(missing))}"
    if worker.cpu_count < needed.cpu:
        return f"has {worker.cpu_count:g} CPUs, {needed.cpu:g} are asked for"
    if worker.ram_total_mb < needed.ram_mb:
        return f"has {worker.ram_total_mb} MB memory, {needed.ram_mb} are asked for"
    return None


def closed(spot: Place, job: Job) -> str | None:
    """Return why the place is closed to this very job, however little that needs, or None."""
    if spot.reserved_for not in (None, job.job_id):
        return "its next free place is kept for a larger job"
    if job.is_suspect and spot.suspects:
        # With two on a lost worker nobody can tell which killed it: both would be poison jobs.
        return "runs another job that has lost its workers"
    return None


def too_full(spot: Place, needed: Requirement) -> str | None:
    """Return why the place has too little free for the requirement now, or None."""
    worker = spot.worker
    if worker.max_jobs and spot.jobs >= worker.max_jobs:
        return f"runs {spot.jobs} of at most {worker.max_jobs} jobs"
    if worker.cpu_count - spot.cpu < needed.cpu - CPU_SLACK:
        return f"{max(0.0, worker.cpu_count - spot.cpu):g} of {worker.cpu_count:g} CPUs free"
    if worker.ram_total_mb - spot.ram_mb < needed.ram_mb:
        free_mb = max(0, worker.ram_total_mb - spot.ram_mb)
        return f"{free_mb} of {worker.ram_total_mb} MB memory free"
    return None


def unavailable(worker: Worker, now: datetime, offline_after: timedelta) -> str | None:
    """Return why the worker may not be given any job now, or None."""
    if worker.soft_deleted:
        return "is deleted"
    if worker.is_offline(now, offline_after):
        return OFFLINE
    if worker.draining:
        return DRAINING
    return worker.trouble(now)
