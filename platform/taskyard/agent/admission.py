"""The agent's last word: a job is admitted only while it fits what really runs here."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from taskyard.agent.host import Host
from taskyard.jobs.model import Job
from taskyard.settings import Settings
from taskyard.workers.model import Worker
from taskyard.workers.places import CPU_SLACK, Place


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What this agent offers; ``max_jobs`` 0 means no bound but CPU and memory."""

    cpu_count: float
    ram_total_mb: int
    max_jobs: int


def capacity_of(host: Host, settings: Settings) -> Capacity:
    """What the settings say, else what the host's cgroup allows."""
    return Capacity(
        cpu_count=settings.cpu_count or host.cpu_count,
        ram_total_mb=int(settings.ram_total_mb or host.ram_total_mb),
        max_jobs=settings.max_jobs,
    )


class Admission:
    """What this host has, and what its admitted jobs were promised of it."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._bare = Worker(
            worker_id="",
            cpu_count=capacity.cpu_count,
            ram_total_mb=capacity.ram_total_mb,
            max_jobs=capacity.max_jobs,
            last_heartbeat=datetime.now(UTC),
        )
        self._admitted: dict[str, Job] = {}
        self._lock = threading.Lock()

    def admit(self, key: str, job: Job) -> bool:
        """Take the job in if it fits beside the others."""
        with self._lock:
            cpu = sum(other.required_cpu for other in self._admitted.values())
            ram_mb = sum(other.required_ram_mb for other in self._admitted.values())
            most = self.capacity.max_jobs
            full = most and len(self._admitted) >= most
            over_cpu = cpu + job.required_cpu > self.capacity.cpu_count + CPU_SLACK
            if full or over_cpu or ram_mb + job.required_ram_mb > self.capacity.ram_total_mb:
                return False
            self._admitted[key] = job
            return True

    def has(self, key: str) -> bool:
        """Whether it was admitted and has not left."""
        return key in self._admitted

    def job_ids(self) -> set[str]:
        """The jobs that are admitted."""
        with self._lock:
            return {job.job_id for job in self._admitted.values()}

    def leave(self, key: str) -> bool:
        """Give its place back; whether it had one."""
        with self._lock:
            return self._admitted.pop(key, None) is not None

    def place(self, worker: Worker, waiting: Sequence[Job]) -> Place:
        """This worker with what is admitted here now, and what waits to be."""
        spot = Place(worker=worker)
        spot.reserved_for = worker.reserved_for
        with self._lock:
            held = list(self._admitted.values())
        for job in [*held, *waiting]:
            spot.take(job)
        return spot

    def is_full(self, waiting: Sequence[Job]) -> bool:
        """Whether nothing is free beside what is admitted and what waits to be."""
        return self.place(self._bare, waiting).is_full
