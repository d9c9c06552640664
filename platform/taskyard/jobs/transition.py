"""The values of a verb's decision: its moment, how an attempt ended, and one guarded write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from taskyard.documents import changed
from taskyard.errors import Conflict
from taskyard.jobs.model import Job
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import ROADS, JobStatus, Verb

#: How many history entries of a job are kept, the newest: enough for a dozen attempts, and few
#: enough that the document stays under 8 KB.
HISTORY_KEPT = 40

#: The longest error message that is kept: it may be a log, or quote what a stranger sent.
DETAIL_CHARACTERS = 2000


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a verb is decided, by the database's clock, and how long an ended job is kept."""

    now: datetime
    keep: timedelta = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended; ``cause`` is None for success."""

    cause: Cause | None = None
    detail: str = "exit code 0"
    exit_code: int | None = None
    #: Name of the signal that ended it, when Taskyard sent one.
    signal: str | None = None
    #: Further stored fields, such as those of the result archive.
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One guarded write: it changes the job only if that matches ``guard``."""

    verb: Verb
    #: The job as it was read for the decision.
    job: Job
    guard: Mapping[str, Any]
    changes: Mapping[str, Any]
    cleared: tuple[str, ...]
    entry: Mapping[str, Any]

    @property
    def job_id(self) -> str:
        """The id of the job that it moves."""
        return self.job.job_id

    @property
    def to(self) -> JobStatus:
        """The state after the write."""
        return JobStatus(self.entry["to"])

    def moved(self) -> Job:
        """The job after the write, if the guard matched and nobody else wrote meanwhile."""
        history = (*self.job.history, self.entry)[-HISTORY_KEPT:]
        return changed(self.job, {**self.changes, "history": history}, self.cleared)


def shortened(detail: str) -> str:
    """The message as it is kept: if it is too long, its beginning and an ellipsis."""
    if len(detail) <= DETAIL_CHARACTERS:
        return detail
    return detail[: DETAIL_CHARACTERS - 1] + "…"


def step(
    verb: Verb,
    job: Job,
    to: JobStatus,
    at: Moment,
    changes: Mapping[str, Any],
    reason: str | None = None,
    guard: Mapping[str, Any] | None = None,
    cleared: tuple[str, ...] = (),
) -> Transition:
    """Make a transition. Its guard is the job's state, attempt, lease and cancel request as they
    were read, and ``guard``.

    Raises Conflict when ``verb`` does not lead from the job's state to ``to``.
    """
    if (job.status, to) not in ROADS[verb]:
        raise Conflict(f"{job.job_id} is {job.status}: {verb} does not lead to {to} from there.")
    return Transition(
        verb=verb,
        job=job,
        guard={
            "status": str(job.status),
            "attempts": job.attempts,
            "leaseId": job.lease_id,
            "cancelRequested": job.cancel_requested,
            **(guard or {}),
        },
        changes={
            **{name: value for name, value in changes.items() if name not in cleared},
            "status": str(to),
        },
        cleared=cleared,
        entry={
            "at": at.now,
            "verb": str(verb),
            "from": str(job.status),
            "to": str(to),
            # A job that is handed out begins its next attempt with this entry.
            "attempt": int(changes["attempts"]) if "assignedAt" in changes else job.attempts,
            "worker": changes.get("assignedAgentId", job.assigned_agent_id),
            "reason": reason,
        },
    )
