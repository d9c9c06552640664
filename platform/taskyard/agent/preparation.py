"""Prepares jobs, from the lease to a laid-out attempt; a failure on the way is the result."""

from __future__ import annotations

from concurrent.futures import Executor

from taskyard import events
from taskyard.agent.attempt import Attempt
from taskyard.agent.endings import Endings
from taskyard.agent.held import Held
from taskyard.agent.stages import Stages


class Preparation:
    """Moves a job to RUNNING and lays out its workspace, or reports why it cannot run."""

    def __init__(self, helpers: Executor, stages: Stages, endings: Endings) -> None:
        self._helpers = helpers
        self._stages = stages
        self._endings = endings

    def start(self, held: Held) -> bool:
        """Move the job to RUNNING; return whether it is. May block."""
        try:
            started = self._stages.reporter.start(held.lease)
            if started is not None:
                held.job, held.until = started, self._stages.until(started)
                return True
        except Exception as error:
            self.report(held, error)
            return False
        events.emit("agent.job_refused", job=held.job.job_id)
        self._endings.reported([held])
        return False

    def lay_out(self, held: Held) -> Attempt | None:
        """Lay out a running job that has no input; return None if that could not be done."""
        try:
            held.attempt = self._stages.lay_out(held.job)
        except Exception as error:
            self.report(held, error)
        return held.attempt

    def report(self, held: Held, error: Exception) -> None:
        """Have a helper report that the job could not be prepared."""
        self._helpers.submit(self._report, held, error)

    def _report(self, held: Held, error: Exception) -> None:
        events.warn("agent.prepare_failed", job=held.job.job_id, error=repr(error))
        try:
            self._endings.results.add(self._stages.failed(held, error))
        except Exception as failure:
            events.error("agent.report_failed", failure, job=held.job.job_id)
            self._endings.reported([held])
