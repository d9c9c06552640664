"""A job that this agent holds, from its lease to the last write under that lease."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from taskyard.agent.attempt import Attempt
from taskyard.agent.fetch import Fetch
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment, Outcome

#: The longest time from a claim to the first line that does not count as waiting.
_WAIT_SECONDS = 0.005


@dataclass(kw_only=True, eq=False)
class Held:
    """A job that this agent is to run, and what has become of it so far."""

    job: Job
    #: Monotonic instant past which nothing of the job may run; 0 while it is only ASSIGNED.
    until: float = 0.0
    #: The attempt once it is laid out; None again once its result is to be written.
    attempt: Attempt | None = None
    #: The fetch of its input, while that is under way and wanted.
    fetch: Fetch | None = None
    abandoned: bool = False
    #: Key of the job whose last line it is to follow, while it waits for that.
    lead: str = ""
    #: Why it was withdrawn from following that line.
    unwanted: str = ""
    #: The outcome to stop it with, if a stop was asked for before its first line was spawned.
    stop_with: Outcome | None = None
    #: Monotonic instants: since when it waits for its place, and when its first line was spawned.
    waits_since: float = field(default_factory=time.monotonic)
    begun_at: float = 0.0
    #: When its first line was spawned, by the database's clock, if it had waited while RUNNING.
    spawned_at: datetime | None = None
    #: When its last process was gone, by the database's clock.
    ended_at: Moment | None = None

    def __post_init__(self) -> None:
        self.lease: Lease = lease_of(self.job)
        self.key = self.lease.key

    @property
    def started(self) -> bool:
        """Whether the job is RUNNING, so that its lease is renewed."""
        return self.job.status is JobStatus.RUNNING

    @property
    def ran_seconds(self) -> float:
        """Seconds since its first line was spawned; infinite if none was."""
        return time.monotonic() - self.begun_at if self.begun_at else float("inf")

    def begin(self, now: datetime) -> None:
        """Note that its first line is spawned now."""
        self.begun_at = time.monotonic()
        if self.begun_at - self.waits_since > _WAIT_SECONDS:
            self.spawned_at = now

    def drop_input(self) -> None:
        """Stop the fetch of its input, if there is one."""
        fetch, self.fetch = self.fetch, None
        if fetch is not None:
            fetch.stop()

    def extend(self, until: float) -> None:
        """Let the job run until ``until``; the deadline is never moved back."""
        self.until = max(self.until, until)
