"""Jobs that run here, line by line: begun, gone on with, stopped, ended.

Called by the loop's thread alone. What a line does is told by the keeper (``processes``); when a
job may begin is for ``starts`` to say.
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

    #: Told of each line that another job may follow. It asks this, so it comes second.
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
        """``held`` is all that the runner holds; ``left`` is told of what runs no more."""
        self.processes = Processes(loop, self)
        self._stages = stages
        self._pump = pump
        self._endings = endings
        self._held = held
        self._left = left
        self._kill_grace_seconds = kill_grace_seconds

    def is_wanted(self, held: Held) -> bool:
        """Whether a job that has its place may still run; else it is given back."""
        if held.abandoned or held.stop_with is not None:
            # Nothing was spawned: the attempt has not been.
            self._endings.send_back(held, held.stop_with.detail if held.stop_with else "")
        elif time.monotonic() >= held.until:
            self._endings.send_back(held, "its lease was over before it could begin")
        else:
            return True
        return False

    def begin(self, held: Held, attempt: Attempt) -> None:
        """It has its place and is laid out: spawn its first line, if it still may run."""
        if self.is_wanted(held):
            self._note_begin(held, attempt)
            self._next_line(held, attempt)

    def begun(self, held: Held, attempt: Attempt) -> None:
        """Its first line has begun, as another's was over or in a place of its own."""
        self._note_begin(held, attempt)
        self._runs(held, attempt)
        if held.abandoned:
            self.kill(held, attempt)
            self._endings.discard(held)
        elif held.stop_with is not None:
            attempt.stop(held.stop_with, time.monotonic(), self._kill_grace_seconds)

    def spawn(self, held: Held, attempt: Attempt, *, after: str = "") -> bool:
        """Spawn its next line, now or when the line of ``after`` is over; whether that was asked
        for.
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
                # Its keeper is gone before it heard of it: no attempt is used up by that.
                missing = self.processes.missing
                self._endings.send_back(held, missing or "its keeper process died", rest=missing)
            else:
                self._cannot_run(held, attempt, str(error))
            return False
        return True

    def stop(self, key: str, outcome: Outcome, grace_seconds: float) -> None:
        """End a job, from SIGTERM to SIGKILL; what was not spawned is not begun."""
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
        """Kill a job whose lease is lost; nothing of it is reported."""
        held = self._held.get(key)
        if held is None or held.abandoned:
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
        """End its processes at once."""
        if attempt.running:
            self.processes.signal(held.key, signal.SIGKILL)
            attempt.running, attempt.killed = False, True

    # --- what its keeper tells

    def opened(self, key: str, pipes: Sequence[int]) -> None:
        """A line goes on, or has printed much: its output is read from now on."""
        held = self._held.get(key)
        attempt = held.attempt if held else None
        if attempt and len(pipes) == len(STREAMS):
            self._pump.open(attempt, pipes)
            return
        for fd in pipes:
            os.close(fd)
        if held and attempt:
            # Nobody reads what it prints: it would die of that, or seem to have printed nothing.
            attempt.stopping = _agent_error("its pipes did not come: too many open files")
            self.kill(held, attempt)

    def exited(self, key: str, code: int, printed: Sequence[bytes]) -> None:
        """A line has ended, with all that it started."""
        held = self._held.get(key)
        goes_on = False
        if held and held.attempt:
            held.attempt.running = False
            held.attempt.exit_code = code
            self._pump.take(held.attempt, printed)
            # What it prints would be kept in memory: a line that waits to print is no different.
            held.attempt.waits = held.attempt.paused and held.attempt.goes_on
            goes_on = held.attempt.waits or self._next_line(held, held.attempt)
        if not goes_on:
            self.starts.over(key)

    def go_on(self, held: Held, attempt: Attempt) -> None:
        """Begin the line that waited for the store, or end with the one before."""
        attempt.waits = False
        if not self._next_line(held, attempt):
            self.starts.over(held.key)

    def failed(self, key: str, reason: str, *, is_full: bool = False) -> None:
        """A line could not be started, or was taken along by its keeper's death."""
        held = self._held.get(key)
        rest = reason if is_full else ""
        if held and held.lead:
            self.starts.failed(held, reason, rest)
            return
        if held and held.attempt and rest and held.attempt.is_at_first_line:
            # It has not been: no attempt is used up by that.
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
        """The lease was not renewed in time: its processes are dead, and it is ours no more."""
        self.abandon(key)

    # --- from line to line

    def _note_begin(self, held: Held, attempt: Attempt) -> None:
        held.begin(self._stages.moment().now)
        attempt.begin(time.monotonic())

    def _next_line(self, held: Held, attempt: Attempt) -> bool:
        """Go on to the next line or to the end; whether there is another line."""
        if not attempt.goes_on:
            self._end(held, attempt)
            return False
        # One that cannot be run does not end as the one before it did.
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
        """Its last process is gone: the place is free, though its output may still come."""
        attempt.end(time.monotonic())
        held.ended_at = self._stages.moment()
        self._left(held)
        if not attempt.pipes:
            self._endings.finish(held, attempt)


def _agent_error(reason: str) -> Outcome:
    return Outcome(cause=Cause.AGENT, detail=f"agent error: {reason}")
