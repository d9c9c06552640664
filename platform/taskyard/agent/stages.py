"""The steps of an attempt before its first line and after its last; most of them may block."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from taskyard import packing
from taskyard.agent import inputs
from taskyard.agent.archives import Archives
from taskyard.agent.attempt import Attempt, fence
from taskyard.agent.environment import clean_environment, inherited
from taskyard.agent.fetch import Fetch, Unreachable
from taskyard.agent.held import Held
from taskyard.agent.output import OutputBuffer
from taskyard.agent.reporting import Reporter
from taskyard.agent.results import Result
from taskyard.agent.workspace import Workspace, WorkspaceRoot
from taskyard.context import Platform
from taskyard.errors import BadArchive, NotFound
from taskyard.jobs.model import Job, Lease
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment, Outcome, shortened
from taskyard.store.chunks import CHUNK_BYTES, Chunk

#: Most output that goes with a result instead of being stored before it.
LAST_BYTES = CHUNK_BYTES


class Stages:
    """Prepares attempts and winds them up."""

    def __init__(self, platform: Platform, reporter: Reporter, workspaces: WorkspaceRoot) -> None:
        self._platform = platform
        self._settings = platform.settings
        self.reporter = reporter
        self._workspaces = workspaces
        self._archives = Archives(platform, reporter, workspaces)
        self._inherited = inherited(self._settings.job_env_pass)

    # --- before the first line

    def assigned(self, lease: Lease) -> Job | None:
        """Return the job of a hint, if it is still assigned under this lease."""
        job = self.reporter.insist(lambda: self._platform.store.jobs.find(lease.job_id))
        ours = job and job.status is JobStatus.ASSIGNED and lease.covers(job)
        return job if ours else None

    def until(self, job: Job) -> float:
        """Return the monotonic instant past which no process of a running job may live."""
        assert job.lease_until is not None
        left = job.lease_until - self._platform.store.clock.now()
        return fence(time.monotonic(), left.total_seconds())

    def lay_out(self, job: Job, fetch: Fetch | None = None) -> Attempt:
        """Lay out an attempt of a running job: a workspace, with the input if that is fetched."""
        workspace = self.reporter.insist(lambda: self._workspace(job, fetch))
        env = clean_environment(self._inherited, workspace, job.env, job.job_id, job.attempts)
        return Attempt(
            job=job,
            workspace=workspace,
            env=env,
            output=OutputBuffer(cap_bytes=self._settings.output_cap_bytes),
            deadline=fetch.deadline if fetch else time.monotonic() + job.timeout_ms / 1000,
            lines=deque(job.lines),
        )

    # --- instead of running

    def release(self, lease: Lease, reason: str, rest: str) -> None:
        """Give back a job that was not spawned; with ``rest``, this host cools down for that."""
        if rest:
            # Before the job is free again: else it would come back here at once.
            self.reporter.insist(lambda: self._cool_down(lease.worker_id, rest))
        self.reporter.release(lease, reason)
        self._platform.nudge("release")

    def failed(self, held: Held, error: Exception) -> Result:
        """Return the result of an attempt that could not be prepared.

        A bad or missing archive is the job's own fault, and a server elsewhere that is away is
        nobody's. Anything else is this host's fault: it cools down, and the job is tried elsewhere.
        """
        if isinstance(error, BadArchive | NotFound):
            outcome = Outcome(cause=Cause.EXIT, detail=f"input archive: {error}")
        elif isinstance(error, Unreachable):
            outcome = Outcome(cause=Cause.AGENT, detail=str(error))
        else:
            outcome = Outcome(cause=Cause.AGENT, detail=f"agent error: {error}")
            self.reporter.insist(lambda: self._cool_down(held.lease.worker_id, outcome.detail))
        return Result(held=held, outcome=outcome, at=self.moment())

    # --- after the last line

    def store_output(self, attempt: Attempt, chunks: Sequence[Chunk]) -> None:
        """Store the next piece of the output."""
        self.reporter.output(
            attempt.job,
            chunks,
            total_bytes=attempt.output.kept_bytes,
            truncated=attempt.output.truncated,
        )

    def left_little(self, attempt: Attempt) -> bool:
        """Whether what the attempt left can go with its result: no files, and little output that is
        not stored yet.
        """
        return attempt.output.pending_bytes <= LAST_BYTES and attempt.workspace.is_empty()

    def result(self, held: Held, attempt: Attempt, **fields: Any) -> Result:
        """Return the result of an attempt, with the output that is not stored yet and further
        stored fields.
        """
        return Result(
            held=held,
            outcome=attempt.outcome(),
            at=held.ended_at or self.moment(),
            chunks=attempt.output.take(),
            output_bytes=attempt.output.kept_bytes,
            output_truncated=attempt.output.truncated,
            fields=fields,
        )

    def wind_up(self, held: Held, attempt: Attempt) -> Result:
        """Store the files of an attempt; return its result. The output that is not stored yet goes
        with the result if it is little; it is stored before the files if these take a while.
        """
        pending_bytes = attempt.output.pending_bytes
        is_much = pending_bytes > LAST_BYTES
        if pending_bytes and (is_much or not packing.is_little(attempt.workspace.folder)):
            self.store_output(attempt, attempt.output.take())
        return self.result(held, attempt, **self._archives.keep(attempt))

    def keeps(self, attempt: Attempt) -> bool:
        """Keep an unchanged workspace for another job; return whether that was done. Is quick."""
        return not attempt.killed and self._workspaces.keep(attempt.workspace)

    def clear(self, attempt: Attempt) -> None:
        """Remove the workspace, unless it is kept; takes long if the attempt left very much."""
        if self.keeps(attempt):
            return
        if attempt.killed or not self._workspaces.keep(attempt.workspace.emptied()):
            attempt.workspace.remove()

    def moment(self) -> Moment:
        """Now, by the database's clock."""
        return self._platform.moment()

    def _workspace(self, job: Job, fetch: Fetch | None) -> Workspace:
        """Make a workspace with the job's input in it; on failure nothing of it is left."""
        workspace = self._workspaces.create(job.job_id, job.attempts)
        try:
            if fetch:
                inputs.bring(job, workspace, self._platform, fetch)
        except BaseException:
            workspace.remove()
            raise
        return workspace

    def _cool_down(self, worker_id: str, reason: str) -> None:
        self._platform.store.workers.record_failure(
            worker_id,
            reason=shortened(reason),
            now=self._platform.store.clock.now(),
            cooldown=timedelta(seconds=self._settings.cooldown_seconds),
        )
