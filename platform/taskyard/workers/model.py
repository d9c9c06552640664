"""Workers as values: what a worker can hold, its health, and what a job requires of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

#: The pattern of a label, wherever one is given.
LABEL_PATTERN = r"[A-Za-z0-9_.:/-]{1,64}"


class WorkerStatus(StrEnum):
    """A worker's status as it is shown; derived, never stored."""

    IDLE = "IDLE"
    BUSY = "BUSY"
    UNHEALTHY = "UNHEALTHY"
    OFFLINE = "OFFLINE"


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What a job needs of a worker."""

    cpu: float
    ram_mb: int
    labels: frozenset[str] = frozenset()

    @property
    def shape(self) -> str:
        """The requirement as one string; equal requirements have equal shapes."""
        return f"{self.cpu:g}/{self.ram_mb}/{','.join(sorted(self.labels))}"

    @classmethod
    def of_shape(cls, shape: str) -> Requirement:
        """Return the least that a job of this shape needs: a shape has CPUs to six digits only."""
        cpu, ram_mb, labels = shape.split("/", 2)
        return cls(
            cpu=float(cpu) * (1 - 6e-6),
            ram_mb=int(ram_mb),
            labels=frozenset(labels.split(",")) if labels else frozenset(),
        )


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a worker has in use: the sum over its live jobs."""

    cpu: float = 0
    ram_mb: int = 0
    job_ids: tuple[str, ...] = ()
    #: How many of the jobs would be poison jobs after one more loss.
    suspects: int = 0

    @property
    def jobs(self) -> int:
        """How many jobs it holds."""
        return len(self.job_ids)

    def of(self, worker: Worker) -> Usage:
        """Return the usage, bounded by what the worker has.

        Short jobs that were claimed ahead of their turn share its places, so the sum may be larger.
        """
        cpu, ram_mb = min(self.cpu, worker.cpu_count), min(self.ram_mb, worker.ram_total_mb)
        return replace(self, cpu=cpu, ram_mb=ram_mb)


NOTHING = Usage()


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One agent as it is stored."""

    worker_id: str
    hostname: str = ""
    os: str = ""
    kind: str = "http"
    boot_id: str = ""
    cpu_count: float = 1
    cpu_usage: float = 0
    ram_total_mb: int = 0
    ram_free_mb: int = 0
    version: str = ""
    labels: tuple[str, ...] = ()
    #: Most jobs that it holds at once; 0 means that only CPU and memory limit them.
    max_jobs: int = 0
    isolation: str = "none"
    #: ``OK``, ``UNHEALTHY`` (it said so of itself) or ``OFFLINE`` (it left, or was silent).
    health: str = "OK"
    health_reason: str | None = None
    cooldown_until: datetime | None = None
    #: Set when one of its leases expired: it gets no new jobs until it heartbeats.
    suspended_at: datetime | None = None
    draining: bool = False
    soft_deleted: bool = False
    #: Id of a large job that waits: places that this worker frees are kept for it.
    reserved_for: str | None = None
    #: Whether it has named an attempt or a lease in what it writes.
    fenced: bool = False
    last_heartbeat: datetime
    registered_at: datetime | None = None
    updated_at: datetime | None = None
    docker_containers: int | None = None
    docker_cpu_usage: float | None = None
    docker_memory_mb: float | None = None

    @property
    def boot(self) -> str:
        """Names this boot of the worker (``worker id/boot id``), also in ``lost_on`` of jobs."""
        return f"{self.worker_id}/{self.boot_id}"

    def status(self, usage: Usage, now: datetime, offline_after: timedelta) -> WorkerStatus:
        """Return the status as it is shown at ``now``."""
        if self.is_offline(now, offline_after):
            return WorkerStatus.OFFLINE
        if self.trouble(now):
            return WorkerStatus.UNHEALTHY
        return WorkerStatus.BUSY if usage.jobs else WorkerStatus.IDLE

    def is_offline(self, now: datetime, offline_after: timedelta) -> bool:
        """Whether the worker has left, or was not heard of for ``offline_after``."""
        return self.health == "OFFLINE" or now - self.last_heartbeat > offline_after

    def trouble(self, now: datetime) -> str | None:
        """Return why the worker may not be given jobs although it heartbeats, or None."""
        if self.cooldown_until and self.cooldown_until > now:
            return f"cooling down after a failure: {self.health_reason or 'unknown'}"
        if self.health == "UNHEALTHY":
            return self.health_reason or "reports that it is unhealthy"
        if self.suspended_at:
            return "lost a job; waiting for its next heartbeat"
        return None
