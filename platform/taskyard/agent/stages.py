"""What an attempt goes through before its first line and after its last; all of it may block."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, BinaryIO

from taskyard import events, packing
from taskyard.agent import inputs
from taskyard.agent.admission import Admission
from taskyard.agent.attempt import Attempt, fence
from taskyard.agent.output import OutputBuffer
from taskyard.agent.process import clean_environment
from taskyard.agent.reporting import Reporter
from taskyard.agent.workspace import Workspace, WorkspaceRoot
from taskyard.context import Platform
from taskyard.errors import BadArchive
from taskyard.jobs.lifecycle import Outcome
from taskyard.jobs.model import Job, Lease
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import JobStatus
from taskyard.store.files import StoredFile
from taskyard.store.output import Chunk


class Refused(Exception):
    """The attempt is not run, and that has been reported already."""


class Stages:
    """Prepares attempts and reports them; called by the runner's helpers."""

    def __init__(
        self,
        platform: Platform,
        reporter: Reporter,
        workspaces: WorkspaceRoot,
        admission: Admission,
    ) -> None:
        self._platform = platform
        self._settings = platform.settings
        self._reporter = reporter
        self._workspaces = workspaces
        self._admission = admission

    def prepare(self, lease: Lease, *, on_started: Callable[[float], None]) -> Attempt:
        """Start the attempt and lay out its workspace. Raises Refused.

        ``on_started`` is told the monotonic instant past which nothing of it may run.
        """
        self._admit(lease)
        started = self._reporter.start(lease)
        if started is None:
            self._admission.leave(lease.lease_id or "")
            raise Refused("it is not assigned to this agent any more")
        on_started(self._fence(started))
        began = time.monotonic()
        workspace = self._reporter.insist(lambda: self._laid_out(started))
        return self._attempt(started, lease, workspace, began)

    def release(self, lease: Lease, reason: str) -> None:
        """Give back what was not spawned."""
        self._reporter.release(lease, reason)
        self._admission.leave(lease.lease_id or "")
        self._platform.nudge("release")

    def fail(self, lease: Lease, error: Exception) -> None:
        """Report that an attempt could not be prepared.

        A bad archive is the job's own fault. Anything else is this host's: it cools down, and
        the job is tried elsewhere.
        """
        if isinstance(error, BadArchive):
            outcome = Outcome(cause=Cause.EXIT, detail=f"input archive: {error}")
        else:
            outcome = Outcome(cause=Cause.AGENT, detail=f"agent error: {error}")
            self._reporter.insist(lambda: self._cool_down(lease.worker_id, outcome.detail))
        self._end(lease, outcome)

    def store_output(self, attempt: Attempt, chunks: Sequence[Chunk]) -> None:
        """Store a piece of the output, in its order."""
        self._reporter.output(
            attempt.job,
            chunks,
            total_bytes=attempt.output.kept_bytes,
            truncated=attempt.output.truncated,
        )

    def finish(self, attempt: Attempt) -> None:
        """Store the rest of the output, pack what the job left, and report how it ended."""
        try:
            if chunks := attempt.output.take():
                self.store_output(attempt, chunks)
            outcome = attempt.outcome()
            fields = self._pack(attempt)
            self._end(attempt.lease, replace(outcome, fields=fields))
        finally:
            attempt.workspace.remove()

    def leave(self, lease: Lease) -> None:
        """Give back the place of an attempt that is reported no more."""
        self._admission.leave(lease.lease_id or "")

    def close(self) -> None:
        """Stop trying to write: the process is about to end."""
        self._reporter.close()

    def _admit(self, lease: Lease) -> None:
        job = self._reporter.insist(lambda: self._platform.store.jobs.find(lease.job_id))
        if job is None or job.status is not JobStatus.ASSIGNED or not lease.covers(job):
            raise Refused("it is not assigned to this agent any more")
        if not self._admission.admit(lease.lease_id or "", job.requirement):
            self._reporter.release(lease, "does not fit beside what runs on the agent")
            raise Refused("it does not fit beside what runs here")

    def _laid_out(self, job: Job) -> Workspace:
        """A workspace with the job's input in it; nothing is left of one that fails."""
        workspace = self._workspaces.create(job.job_id, job.attempts)
        try:
            inputs.fetch(job, workspace, self._platform)
        except BaseException:
            workspace.remove()
            raise
        return workspace

    def _cool_down(self, worker_id: str, reason: str) -> None:
        self._platform.store.workers.record_failure(
            worker_id,
            reason=reason,
            now=self._platform.store.clock.now(),
            cooldown=timedelta(seconds=self._settings.cooldown_seconds),
        )

    def _fence(self, started: Job) -> float:
        assert started.lease_until is not None
        left = started.lease_until - self._platform.store.clock.now()
        return fence(time.monotonic(), left.total_seconds())

    def _attempt(self, job: Job, lease: Lease, workspace: Workspace, began: float) -> Attempt:
        env = clean_environment(
            self._settings.job_env_pass, workspace, job.env, job.job_id, job.attempts
        )
        return Attempt(
            job=job,
            lease=lease,
            workspace=workspace,
            env=env,
            output=OutputBuffer(cap_bytes=self._settings.output_cap_bytes),
            deadline=began + job.timeout_ms / 1000,
            lines=deque(line for line in job.command.splitlines() if line.strip()),
        )

    def _pack(self, attempt: Attempt) -> dict[str, Any]:
        """The result archive's fields; none when the job left nothing."""
        target = attempt.workspace.tmp / "result.zip"
        with target.open("w+b") as packed:
            report = packing.pack(
                attempt.workspace.folder,
                packed,
                cap_bytes=self._settings.result_cap_bytes,
                cap_entries=self._settings.archive_cap_entries,
            )
            if not report.entries:
                return {}
            name = f"{attempt.job.job_id}-result.zip"
            stored = self._reporter.insist(lambda: self._stored(packed, name))
        return {
            "resultFileId": stored.file_id,
            "resultFilename": stored.filename,
            "resultTruncated": report.cut,
        }

    def _stored(self, packed: BinaryIO, filename: str) -> StoredFile:
        packed.seek(0)
        return self._platform.store.files.save(
            packed,
            filename=filename,
            cap_bytes=self._settings.result_cap_bytes * 2,
            keep=timedelta(days=self._settings.job_retention_days),
        )

    def _end(self, lease: Lease, outcome: Outcome) -> None:
        ended = self._reporter.finish(lease, outcome)
        self._admission.leave(lease.lease_id or "")
        if ended is not None:
            events.emit("agent.job_ended", job=lease.job_id, status=str(ended.status))
        self._platform.nudge("finish")
