"""A job: its inputs, its state, and the lease under which a worker holds it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from taskyard.jobs.states import TERMINAL, JobStatus
from taskyard.workers.model import Requirement

#: The fields that a submitter sets; a retry has the same.
INPUTS = (
    *("command", "required_cpu", "required_ram_mb", "timeout_ms", "max_retries", "priority"),
    *("labels", "env", "retry_on_exit", "file_id", "file_url", "filename"),
)

#: Losses in a row after which the job itself is taken to be what kills its workers.
POISON_LOSSES = 3


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as it is stored; instants are aware datetimes of the database's clock."""

    job_id: str
    command: str
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None
    required_cpu: float = 1
    required_ram_mb: int = 256
    timeout_ms: int = 300_000
    max_retries: int = 3
    priority: int = 5
    labels: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    retry_on_exit: bool = False
    retry_of: str | None = None
    submitted_by: str | None = None
    #: The requirement as one indexed string: a pass reads the queue shape by shape.
    shape: str = ""

    status: JobStatus = JobStatus.QUEUED
    attempts: int = 0
    #: Attempts that took their worker with them, in a row; three make a poison job.
    losses: int = 0
    #: ``worker/boot`` pairs that lost this job: an agent that sends no attempt is not given it
    #: again before it registers anew, so its old result cannot pass for a new attempt's.
    lost_on: tuple[str, ...] = ()
    #: How many late writes were refused; the history tells of them.
    refused_writes: int = 0
    assigned_agent_id: str | None = None
    #: ``celery`` or ``http``: the kind of its agent, which decides how that renews and shows life
    #: (``docs/lifecycle.md``).
    agent_kind: str | None = None
    #: ``worker/boot`` of the agent that claimed it: another boot of the agent is another holder.
    agent_boot: str | None = None
    lease_id: str | None = None
    lease_until: datetime | None = None
    #: Last sign of life of this attempt from an HTTP agent; None until there was one.
    last_seen_at: datetime | None = None
    cancel_requested: bool = False
    #: ``{by, reason, at}`` of the request, and ``signal`` once one ended the job.
    cancel: Mapping[str, Any] | None = None

    exit_code: int | None = None
    error_message: str | None = None
    result_file_id: str | None = None
    result_filename: str | None = None
    result_truncated: bool = False
    output_bytes: int = 0
    output_seq: int = 0
    output_truncated: bool = False
    output_generation: str = "live"
    #: The attempt whose output is the job's: the last one that started.
    output_attempt: int = 0
    #: The whole output, if it is so small that it was written with the job's end: pieces
    #: ``{stream, data}`` in order.
    small_output: tuple[Mapping[str, Any], ...] = ()

    #: Agent that had a free place when the job was submitted: only this agent is woken for the job,
    #: but any other may take it too.
    offered_to: str | None = None
    created_at: datetime
    queued_at: datetime
    assigned_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    last_streamed_at: datetime | None = None
    expire_at: datetime | None = None
    history: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if type(self.status) is not JobStatus:
            object.__setattr__(self, "status", JobStatus(self.status))

    @property
    def requirement(self) -> Requirement:
        """What a worker must have free to take this job."""
        return Requirement(
            cpu=self.required_cpu, ram_mb=self.required_ram_mb, labels=frozenset(self.labels)
        )

    @property
    def has_input(self) -> bool:
        """Whether a file has to be fetched before the job can run."""
        return bool(self.file_id or self.file_url)

    @property
    def is_suspect(self) -> bool:
        """Whether one more loss makes it a poison job: that loss must be its own fault alone, so a
        suspect does not share a worker with another.
        """
        return self.losses >= POISON_LOSSES - 1

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self.status in TERMINAL

    @property
    def lines(self) -> list[str]:
        """The lines of the command that are not blank, in order.

        A line ends with LF or CRLF. ``str.splitlines`` would also split at a form feed and others,
        which a shell takes for text.
        """
        return [line for line in re.split("\r?\n", self.command) if line.strip()]


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to write for one attempt of one job: every write of an agent names it.

    ``attempt`` and ``lease_id`` are None for agents of the earlier system, which send neither;
    for those the worker alone is the guard (``docs/lifecycle.md``).
    """

    job_id: str
    worker_id: str
    attempt: int | None = None
    lease_id: str | None = None

    @property
    def key(self) -> str:
        """A unique name of the lease: a batch of jobs may share one lease id."""
        return f"{self.job_id}/{self.lease_id}"

    def covers(self, job: Job) -> bool:
        """Whether ``job``, as it was read, is still held under this lease."""
        if self.attempt is None and self.lease_id is None and job.agent_boot in job.lost_on:
            # The same boot lost the job before and has it again: which attempt writes is unknown.
            return False
        return (
            job.assigned_agent_id == self.worker_id
            and self.attempt in (None, job.attempts)
            and self.lease_id in (None, job.lease_id)
        )


def lease_of(job: Job) -> Lease:
    """The lease under which ``job`` is held now."""
    return Lease(
        job_id=job.job_id,
        worker_id=job.assigned_agent_id or "",
        attempt=job.attempts,
        lease_id=job.lease_id,
    )
