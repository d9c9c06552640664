"""What the agent's other parts ask of its runner."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from taskyard.jobs.model import Lease


class Jobs(Protocol):
    """The jobs that an agent holds; the runner is one."""

    def leases(self) -> list[Lease]:
        """Return the leases of the jobs that are RUNNING on this agent."""

    def run_assigned(self, lease: Lease) -> None:
        """Run an assigned job, unless it runs already."""

    def extend(self, leases: Collection[Lease], until: float) -> None:
        """Let the jobs of these leases run until ``until`` (monotonic)."""

    def cancel(self, lease: Lease) -> None:
        """Stop a job whose cancel was requested."""

    def abandon(self, lease: Lease) -> None:
        """Kill a job whose lease is lost, and report nothing of it."""

    def give_back(self, reason: str) -> None:
        """Stop all jobs, and report that they do not run to their end here."""
