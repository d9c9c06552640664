"""What the agent's other parts ask of its runner."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from taskyard.jobs.model import Lease


class Jobs(Protocol):
    """The jobs that an agent holds; the runner is one."""

    def leases(self) -> list[Lease]:
        """Everything that is RUNNING under this agent."""

    def offer(self, lease: Lease) -> None:
        """Run an assigned job, unless it runs already."""

    def extend(self, leases: Collection[Lease], until: float) -> None:
        """Let what runs under these leases run until then (monotonic)."""

    def cancel(self, lease: Lease) -> None:
        """Stop a job that was asked to be cancelled."""

    def abandon(self, lease: Lease) -> None:
        """Kill a job whose lease is lost; nothing of it is reported."""

    def give_back(self, reason: str) -> None:
        """Stop everything, and report that it is not run to its end here."""
