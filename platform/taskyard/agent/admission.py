"""The agent's final check: a job is admitted only if it fits beside those admitted already."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from taskyard.agent.host import Host
from taskyard.jobs.model import Job
from taskyard.settings import Settings
from taskyard.workers.model import Worker
from taskyard.workers.places import CPU_SLACK, Place


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What this agent offers; with ``max_jobs`` 0, only CPU and memory limit its jobs."""

    cpu_count: float
    ram_total_mb: int
    max_jobs: int


def capacity_of(host: Host, settings: Settings) -> Capacity:
    """Return the capacity that is configured, or else what the host's control group allows."""
    return Capacity(
        cpu_count=settings.cpu_count or host.cpu_count,
        ram_total_mb=int(settings.ram_total_mb or host.ram_total_mb),
        max_jobs=settings.max_jobs,
    )


class Admission:
    """The capacity of this host, and the admitted jobs that share it."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._admitted: dict[str, Job] = {}
        #: CPUs and memory that all admitted jobs require together.
        self._cpu = 0.0
        self._ram_mb = 0
        self._lock = threading.Lock()

    def admit(self, key: str, job: Job) -> bool:
        """Admit the job if it fits beside the others; return whether it was admitted."""
        with self._lock:
            over_cpu = self._cpu + job.required_cpu > self.capacity.cpu_count + CPU_SLACK
            over_ram = self._ram_mb + job.required_ram_mb > self.capacity.ram_total_mb
            if over_cpu or over_ram or not self.has_room:
                return False
            self._admitted[key] = job
            self._add_up()
            return True

    @property
    def has_room(self) -> bool:
        """Whether the smallest job might be admitted."""
        most = self.capacity.max_jobs
        slots = not most or len(self._admitted) < most
        return slots and self.capacity.cpu_count - self._cpu > CPU_SLACK

    def has(self, key: str) -> bool:
        """Whether the job of this key is admitted and has not left."""
        return key in self._admitted

    def leave(self, key: str) -> bool:
        """Free the place of the job of this key; return whether it had one."""
        with self._lock:
            had = self._admitted.pop(key, None) is not None
            self._add_up()
            return had

    def place(self, worker: Worker, waiting: Sequence[Job]) -> Place:
        """Return the worker's place, filled with the admitted jobs and those ``waiting`` to be."""
        spot = Place(worker=worker)
        spot.reserved_for = worker.reserved_for
        with self._lock:
            held = list(self._admitted.values())
        for job in [*held, *waiting]:
            spot.take(job)
        return spot

    def _add_up(self) -> None:
        """Add up anew each time: adding and subtracting fractions leaves rounding errors."""
        self._cpu = sum(job.required_cpu for job in self._admitted.values())
        self._ram_mb = sum(job.required_ram_mb for job in self._admitted.values())
