"""A worker: what it can hold, how it fares, and what is asked of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

#: What a label looks like, wherever one is given.
LABEL_PATTERN = r"[A-Za-z0-9_.:/-]{1,64}"


class WorkerStatus(StrEnum):
    """How a worker is shown; derived, never stored."""

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
        """The least that a job of this shape needs: a shape has six digits of its CPUs."""
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
    #: How many of them one more loss makes poison jobs.
    suspects: int = 0

    @property
    def jobs(self) -> int:
        """How many jobs it holds."""
        return len(self.job_ids)

    def of(self, worker: Worker) -> Usage:
        """What is taken of what the worker has. Short jobs that were claimed ahead of their turn
        share its places, and do not add to that.
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
    #: Most jobs it holds at once; 0 means no bound but CPU and memory.
    max_jobs: int = 0
    isolation: str = "none"
    #: What it last said of itself (``UNHEALTHY``), or the health tick of it (``OFFLINE``).
    health: str = "OK"
    health_reason: str | None = None
    cooldown_until: datetime | None = None
    #: Set when one of its leases expired: it gets nothing new until it heartbeats.
    suspended_at: datetime | None = None
    draining: bool = False
    soft_deleted: bool = False
    #: A job that waits for a place of this size: freed places are kept for it.
    reserved_for: str | None = None
    #: Whether it names attempt or lease in what it writes.
    fenced: bool = False
    last_heartbeat: datetime
    registered_at: datetime | None = None
    updated_at: datetime | None = None
    docker_containers: int | None = None
    docker_cpu_usage: float | None = None
    docker_memory_mb: float | None = None

    @property
    def boot(self) -> str:
        """This worker in this life of it, as jobs remember where they were lost."""
        return f"{self.worker_id}/{self.boot_id}"

    def status(self, usage: Usage, now: datetime, offline_after: timedelta) -> WorkerStatus:
        """The status as it is shown at ``now``."""
        if self.is_offline(now, offline_after):
            return WorkerStatus.OFFLINE
        if self.trouble(now):
            return WorkerStatus.UNHEALTHY
        return WorkerStatus.BUSY if usage.jobs else WorkerStatus.IDLE

    def is_offline(self, now: datetime, offline_after: timedelta) -> bool:
        """Whether it said good-bye, or was not heard of for ``offline_after``."""
        return self.health == "OFFLINE" or now - self.last_heartbeat > offline_after

    def trouble(self, now: datetime) -> str | None:
        """Why it may not be given work although it heartbeats, or None."""
        if self.cooldown_until and self.cooldown_until > now:
            return f"cooling down after a failure: {self.health_reason or 'unknown'}"
        if self.health == "UNHEALTHY":
            return self.health_reason or "reports that it is unhealthy"
        if self.suspended_at:
            return "lost a job; waiting for its next heartbeat"
        return None
