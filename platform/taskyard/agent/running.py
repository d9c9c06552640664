"""Runs jobs line by line: begins them, goes on to the next line, stops them, ends them.

Called by the loop's thread alone. The keeper reports what becomes of a line (``processes``);
``starts`` decides when a job may begin.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from taskyard import events
from taskyard.agent.attempt import Attempt
from taskyard.agent.endings import Endings
from taskyard.agent.held import Held
from taskyard.agent.loop import Loop
from taskyard.agent.output import STREAMS
from taskyard.agent.processes import Processes
from taskyard.agent.pump import Pump
from taskyard.agent.stages import Stages
from taskyard.agent.starts import Starts
from taskyard.jobs.retry import Cause
from taskyard.jobs.transition import Outcome


class Running:
    """Runs the lines of jobs, and ends the jobs with their last ones."""

    #: Notified of each line that another job may follow; set later, because it needs this object.
    starts: Starts

    def __init__(
        self,
        loop: Loop,
        stages: Stages,
        pump: Pump,
        endings: Endings,
        held: Mapping[str, Held],
        left: Callable[[Held], None],
        *,
        kill_grace_seconds: float,
    ) -> None:
        """``held`` are all jobs of the runner; ``left`` is called for each that runs no more."""
        self.processes = Processes(loop, self)
        self._stages = stages
        self._pump = pump
        self._endings = endings
        self._held = held
        self._left = left
        self._kill_grace_seconds = kill_grace_seconds

    def is_wanted(self, held: Held) -> bool:
        """Return whether a job that has its place may still run; give it back if not."""
        if held.abandoned or held.stop_with is not None:
            # Nothing was spawned, so no attempt is used up.
            self._endings.send_back(held, held.stop_with.detail if held.stop_with else "")
        elif time.monotonic() >= held.until:
            self._endings.send_back(held, "its lease was over before it could begin")
        else:
            return True
        return False

    def begin(self, held: Held, attempt: Attempt) -> None:
        """Spawn the first line of a job that has its place and is laid out, if it still may run."""
        if self.is_wanted(held):
            self._note_begin(held, attempt)
            self._next_line(held, attempt)

    def begun(self, held: Held, attempt: Attempt) -> None:
        """Note that a follower's first line has begun, as its lead was over or in a free place."""
        self._note_begin(held, attempt)
        self._runs(held, attempt)
        if held.abandoned:
            self.kill(held, attempt)
            self._endings.discard(held)
        elif held.stop_with is not None:
            attempt.stop(held.stop_with, time.monotonic(), self._kill_grace_seconds)

    def spawn(self, held: Held, attempt: Attempt, *, after: str = "") -> bool:
        """Ask the keeper for the job's next line; return whether it could be asked.

        The line begins now, or when the line of ``after`` is over.
        """
        try:
            self.processes.spawn(
                held.key,
                attempt.lines.popleft(),
                cwd=attempt.workspace.folder,
                env=attempt.env,
                until=held.until,
                after=after,
            )
        except OSError as error:
            if isinstance(error, ConnectionError) and attempt.is_at_first_line:
                # The keeper is gone and never heard of the line: no attempt is used up by that.
                missing = self.processes.missing
                self._endings.send_back(held, missing or "its keeper process died", rest=missing)
            else:
                self._cannot_run(held, attempt, str(error))
            return False
        return True

    def stop(self, key: str, outcome: Outcome, grace_seconds: float) -> None:
        """Stop a job, with SIGTERM and then SIGKILL; one that was not spawned does not begin."""
        held = self._held.get(key)
        if held and held.attempt and held.begun_at:
            held.attempt.stop(outcome, time.monotonic(), grace_seconds)
        elif held:
            held.stop_with = outcome
            if held.lead:
                self.starts.withdraw(held, outcome.detail)
            elif held.fetch:
                self._endings.send_back(held, outcome.detail)

    def abandon(self, key: str) -> None:
        """Kill a job whose lease is lost, and report nothing of it."""
        held = self._held.get(key)
        # Once its last process is gone, its lease is over as soon as its result is written.
        if held is None or held.abandoned or held.ended_at:
            return
        held.abandoned = True
        events.warn("agent.job_abandoned", job=held.job.job_id)
        attempt = held.attempt
        if attempt and held.begun_at and attempt.drained_by is None:
            self.kill(held, attempt)
            self._endings.discard(held)
        elif held.lead:
            self.starts.withdraw(held, "")
        elif held.fetch:
            self._endings.discard(held)

    def kill(self, held: Held, attempt: Attempt) -> None:
        """Kill the job's processes at once."""
        if attempt.running:
            self.processes.signal(held.key, signal.SIGKILL)
            attempt.running, attempt.killed = False, True

    # --- what the keeper reports

    def opened(self, key: str, pipes: Sequence[int]) -> None:
        """Read a line's output from now on: it still runs, or has printed much."""
        held = self._held.get(key)
        attempt = held.attempt if held else None
        if attempt and len(pipes) == len(STREAMS):
            self._pump.open(attempt, pipes)
            return
        for fd in pipes:
            os.close(fd)
        if held and attempt:
            # Nobody reads its output: it would die of SIGPIPE, or seem to have printed nothing.
            attempt.stopping = _agent_error("its pipes did not come: too many open files")
            self.kill(held, attempt)

    def exited(self, key: str, code: int, printed: Sequence[bytes]) -> None:
        """A line has ended, with all processes that it started."""
        held = self._held.get(key)
        goes_on = False
        if held and held.attempt:
            held.attempt.running = False
            held.attempt.exit_code = code
            self._pump.take(held.attempt, printed)
            # While the store is behind, what the next line prints would be kept in memory. To wait
            # before it begins is no different from waiting to print.
            held.attempt.waits = held.attempt.paused and held.attempt.goes_on
            goes_on = held.attempt.waits or self._next_line(held, held.attempt)
        if not goes_on:
            self.starts.over(key)

    def go_on(self, held: Held, attempt: Attempt) -> None:
        """Begin the line that waited for the store, or end the job if it is not to run any more."""
        attempt.waits = False
        if not self._next_line(held, attempt):
            self.starts.over(held.key)

    def failed(self, key: str, reason: str, *, is_full: bool = False) -> None:
        """A line could not be started, or its keeper died and it was killed."""
        held = self._held.get(key)
        rest = reason if is_full else ""
        if held and held.lead:
            self.starts.failed(held, reason, rest)
            return
        if held and held.attempt and rest and held.attempt.is_at_first_line:
            # The job has not begun: no attempt is used up by a host that is full.
            self._endings.send_back(held, reason, rest=rest)
        elif held and held.attempt and held.attempt.lost_its_folder:
            held.attempt.stopping = Outcome(
                cause=Cause.EXIT, detail="its working folder was gone after one of its lines"
            )
            self._end(held, held.attempt)
        elif held and held.attempt:
            self._cannot_run(held, held.attempt, reason)
        self.starts.over(key)

    def lapsed(self, key: str) -> None:
        """The lease was not renewed in time: the keeper killed the job, which is lost to us."""
        self.abandon(key)

    # --- from line to line

    def _note_begin(self, held: Held, attempt: Attempt) -> None:
        held.begin(self._stages.moment().now)
        attempt.begin(time.monotonic())

    def _next_line(self, held: Held, attempt: Attempt) -> bool:
        """Spawn the next line, or end the job; return whether a line was spawned."""
        if not attempt.goes_on:
            self._end(held, attempt)
            return False
        # If the next line cannot be run, the job must not end as the line before did.
        attempt.exit_code = None
        if not self.spawn(held, attempt):
            return False
        self._runs(held, attempt)
        return True

    def _runs(self, held: Held, attempt: Attempt) -> None:
        attempt.running = True
        if not attempt.lines:
            self.starts.leads(held)

    def _cannot_run(self, held: Held, attempt: Attempt, reason: str) -> None:
        attempt.stopping = _agent_error(reason)
        self._end(held, attempt)

    def _end(self, held: Held, attempt: Attempt) -> None:
        """Note that the last process is gone: the place is free, though output may still come."""
        attempt.end(time.monotonic())
        held.ended_at = self._stages.moment()
        self._left(held)
        if not attempt.pipes:
            self._endings.finish(held, attempt)


def _agent_error(reason: str) -> Outcome:
    return Outcome(cause=Cause.AGENT, detail=f"agent error: {reason}")
