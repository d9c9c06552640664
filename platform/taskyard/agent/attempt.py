"""One attempt of one job on this host: its lines, its output, its deadlines.

Holds state and answers questions; the runner drives it from one thread.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from dataclasses import dataclass, field

from taskyard.agent.output import OutputBuffer
from taskyard.agent.workspace import Workspace
from taskyard.jobs.model import Job
from taskyard.jobs.retry import Cause
from taskyard.jobs.transition import Outcome

#: How long before the end of its lease an attempt is killed; of a short lease, a tenth of it.
FENCE_SECONDS = 1.0

#: How long the pipes are read after the last process of a job has ended. Whoever still holds them
#: then (a process outside the job that was handed one) does not write the job's output any more.
DRAIN_SECONDS = 1.0


def fence(now: float, left_seconds: float) -> float:
    """Return the monotonic instant past which nothing may run under a lease with this time left."""
    return now + left_seconds - min(FENCE_SECONDS, left_seconds / 10)


@dataclass(kw_only=True)
class Attempt:
    """The state of an attempt, from its laid-out workspace to its result."""

    job: Job
    workspace: Workspace
    env: dict[str, str]
    output: OutputBuffer
    deadline: float
    lines: deque[str] = field(default_factory=deque)
    #: Whether one of its lines runs now.
    running: bool = False
    #: Its processes were killed without waiting for their end: they may write a moment longer.
    killed: bool = False
    #: Pipes that are still open: file descriptor -> stream.
    pipes: dict[int, str] = field(default_factory=dict)
    #: Whether the pipes are not read for now, because the store is behind.
    paused: bool = False
    #: Whether a line has ended and the next waits until the store has caught up.
    waits: bool = False
    #: Why Taskyard ends the attempt, once it does: timeout, cancel, stopped agent, agent error.
    stopping: Outcome | None = None
    #: When SIGKILL follows SIGTERM, once the attempt is being stopped.
    kill_at: float | None = None
    last_signal: str | None = None
    #: Exit code of the last line that ended; None again once the next one is asked for.
    exit_code: int | None = None
    #: When the pipes are closed at the latest; set when the last process has ended.
    drained_by: float | None = None
    flushing: bool = False
    flush_due: float = 0.0

    def begin(self, now: float) -> None:
        """Start the timeout with the first line; for a job with input the fetch has started it."""
        if not self.job.has_input:
            self.deadline = now + self.job.timeout_ms / 1000

    def end(self, now: float) -> None:
        """Note that the last process is gone."""
        self.running = False
        self.drained_by = now + DRAIN_SECONDS

    @property
    def goes_on(self) -> bool:
        """Whether there is another line to run."""
        return not self.stopping and not self.exit_code and bool(self.lines)

    @property
    def is_at_first_line(self) -> bool:
        """Whether no line after the first was asked for."""
        return len(self.lines) + 1 >= len(self.job.lines)

    @property
    def lost_its_folder(self) -> bool:
        """Whether the working folder cannot be entered, and an earlier line may be the cause."""
        return not (self.is_at_first_line or os.access(self.workspace.folder, os.X_OK))

    def stop(self, outcome: Outcome, now: float, grace_seconds: float) -> None:
        """Begin to end the attempt: SIGTERM to all its processes, and SIGKILL after a grace.

        The first reason stays.
        """
        if self.stopping is None and self.drained_by is None:
            self.stopping = outcome
            self.kill_at = now + grace_seconds

    def outcome(self) -> Outcome:
        """Return how the attempt ended; exit code 0 of the last line before any signal is success.

        After an error of the agent the exit code means nothing: that error is the outcome.
        """
        if self.stopping and self.stopping.cause is Cause.AGENT:
            return self.stopping
        code = self.exit_code
        done = code == 0 and self.last_signal is None and not self.lines
        if self.stopping and not done:
            return Outcome(
                cause=self.stopping.cause,
                detail=self.stopping.detail,
                exit_code=code,
                signal=self.last_signal,
            )
        if code == 0:
            return Outcome()
        return Outcome(cause=Cause.EXIT, detail=f"exit code {code}", exit_code=code)

    def signal_due(self, now: float) -> int | None:
        """Return the signal to send now to an attempt that is being stopped; each is sent once."""
        if self.kill_at is None or not self.running:
            return None
        due = signal.SIGTERM if now < self.kill_at else signal.SIGKILL
        if self.last_signal in (due.name, signal.SIGKILL.name):
            return None
        self.last_signal = due.name
        return due
