"""The agent's last word: a job is admitted only while it fits what really runs here."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from taskyard.agent.host import Host
from taskyard.settings import Settings
from taskyard.workers.model import Requirement
from taskyard.workers.places import CPU_SLACK


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
        self._admitted: dict[str, Requirement] = {}
        self._lock = threading.Lock()

    def admit(self, lease_id: str, needed: Requirement) -> bool:
        """Take the job in if it fits beside the others."""
        with self._lock:
            cpu = sum(admitted.cpu for admitted in self._admitted.values()) + needed.cpu
            ram_mb = sum(admitted.ram_mb for admitted in self._admitted.values()) + needed.ram_mb
            most = self.capacity.max_jobs
            full = most and len(self._admitted) >= most
            over = cpu > self.capacity.cpu_count + CPU_SLACK or ram_mb > self.capacity.ram_total_mb
            if full or over:
                return False
            self._admitted[lease_id] = needed
            return True

    def has(self, lease_id: str) -> bool:
        """Whether it was admitted and has not left."""
        return lease_id in self._admitted

    def leave(self, lease_id: str) -> None:
        """Give its place back; one that was not admitted is no error."""
        with self._lock:
            self._admitted.pop(lease_id, None)
