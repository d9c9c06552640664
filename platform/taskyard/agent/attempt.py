"""One attempt of one job on this host: its lines, its process, its output, its clocks.

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

#: Everything of an attempt is gone this long before its lease ends, or a tenth of a short lease.
FENCE_SECONDS = 1.0

#: How long the pipes are read after the last process of a job has ended: what a background
#: process still writes then is not the job's any more.
DRAIN_SECONDS = 1.0


def fence(now: float, left_seconds: float) -> float:
    """The monotonic instant past which nothing may run under a lease that lasts so much longer."""
    return now + left_seconds - min(FENCE_SECONDS, left_seconds / 10)


@dataclass(kw_only=True)
class Attempt:
    """What the runner knows of an attempt that was started."""

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
    #: Pipes that are not read for now, because the store is behind.
    paused: bool = False
    #: A line has ended, and the next waits until the store is not behind any more.
    waits: bool = False
    #: Why Taskyard ends it, once it does: time out, cancel, stop.
    stopping: Outcome | None = None
    #: When SIGKILL follows on SIGTERM, once it is being stopped.
    kill_at: float | None = None
    last_signal: str | None = None
    #: Of the line before, until the next is asked for.
    exit_code: int | None = None
    #: When the pipes are closed at the latest; set with the end of the last process.
    drained_by: float | None = None
    flushing: bool = False
    flush_due: float = 0.0

    def begin(self, now: float) -> None:
        """Its first line is spawned; the time that its input took to come is part of its own."""
        if not self.job.has_input:
            self.deadline = now + self.job.timeout_ms / 1000

    def end(self, now: float) -> None:
        """Its last process is gone."""
        self.running = False
        self.drained_by = now + DRAIN_SECONDS

    @property
    def goes_on(self) -> bool:
        """Whether there is another line to run."""
        return not self.stopping and not self.exit_code and bool(self.lines)

    @property
    def is_at_first_line(self) -> bool:
        """Whether the line that was asked for last is its first."""
        return len(self.lines) + 1 >= len(self.job.lines)

    @property
    def lost_its_folder(self) -> bool:
        """Whether the next line has no folder to run in, and one before it may have done that."""
        return not (self.is_at_first_line or os.access(self.workspace.folder, os.X_OK))

    def stop(self, outcome: Outcome, now: float, grace_seconds: float) -> None:
        """Begin to end it: SIGTERM to all of it, a grace, SIGKILL. The first reason stays."""
        if self.stopping is None and self.drained_by is None:
            self.stopping = outcome
            self.kill_at = now + grace_seconds

    def outcome(self) -> Outcome:
        """How it ended; an exit code 0 that was there before any signal is success.

        How its process ended says nothing where the agent failed it.
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
        """The signal that is to be sent now, once it is being stopped; each is sent once."""
        if self.kill_at is None or not self.running:
            return None
        due = signal.SIGTERM if now < self.kill_at else signal.SIGKILL
        if self.last_signal in (due.name, signal.SIGKILL.name):
            return None
        self.last_signal = due.name
        return due
