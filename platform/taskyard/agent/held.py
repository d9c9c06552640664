"""A lease that this agent holds, from the moment it has it to the last write under it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from taskyard.agent.attempt import Attempt
from taskyard.agent.fetch import Fetch
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment, Outcome

#: From a claim to the first line where nothing is in between.
_WAIT_SECONDS = 0.005


@dataclass(kw_only=True, eq=False)
class Held:
    """One job that is this agent's to run."""

    job: Job
    #: Monotonic instant past which nothing may run under it; 0 while the job is only ASSIGNED.
    until: float = 0.0
    #: Laid out and ready to be spawned; None before that, and once it is reported.
    attempt: Attempt | None = None
    #: Its input, while that is on its way and wanted.
    fetch: Fetch | None = None
    abandoned: bool = False
    #: The job whose last line it follows, while it waits for that.
    lead: str = ""
    #: Why it is not to follow it after all.
    unwanted: str = ""
    #: Why it is to be stopped, while it was not yet spawned.
    stop_with: Outcome | None = None
    #: Monotonic instants: since when it waits for its place, and when its first line was spawned.
    waits_since: float = field(default_factory=time.monotonic)
    begun_at: float = 0.0
    #: When that was by the database's clock, if it had waited: it was RUNNING before.
    spawned_at: datetime | None = None
    #: When its last process was gone.
    ended_at: Moment | None = None

    def __post_init__(self) -> None:
        self.lease: Lease = lease_of(self.job)
        self.key = self.lease.key

    @property
    def started(self) -> bool:
        """Whether the job is RUNNING under it, so that it is renewed."""
        return self.job.status is JobStatus.RUNNING

    @property
    def ran_seconds(self) -> float:
        """Since its first line was spawned; without end if none was."""
        return time.monotonic() - self.begun_at if self.begun_at else float("inf")

    def begin(self, now: datetime) -> None:
        """Its first line is spawned now."""
        self.begun_at = time.monotonic()
        if self.begun_at - self.waits_since > _WAIT_SECONDS:
            self.spawned_at = now

    def drop_input(self) -> None:
        """Wait no more for its input, if that is on its way."""
        fetch, self.fetch = self.fetch, None
        if fetch is not None:
            fetch.stop()

    def extend(self, until: float) -> None:
        """It was renewed."""
        self.until = max(self.until, until)
