"""The runner: holds many jobs at once, from the offer to the last write.

One thread tends them. What blocks (the store, unpacking, packing) is done by a few helper
threads, which post back; so a slow database never stops a pipe from being read, a timeout from
being enforced or a cancel from being obeyed.

A job comes as a hint of an assignment (``offer``) or claimed and RUNNING (``take``), waits for its
turn, is laid out, spawned line by line, and ends with its result.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from taskyard import events
from taskyard.agent.admission import Admission
from taskyard.agent.attempt import DRAIN_SECONDS, Attempt
from taskyard.agent.endings import Endings
from taskyard.agent.held import Held
from taskyard.agent.loop import Loop
from taskyard.agent.preparation import Preparation
from taskyard.agent.processes import Processes
from taskyard.agent.pump import LINGER_SECONDS, Pump
from taskyard.agent.stages import Stages
from taskyard.agent.starts import Starts
from taskyard.agent.turns import Turns
from taskyard.jobs.lifecycle import Outcome
from taskyard.jobs.model import Job, Lease
from taskyard.jobs.retry import Cause
from taskyard.settings import Settings

#: Threads for what blocks.
HELPERS = 8

#: Between SIGTERM and SIGKILL for what still runs when the agent leaves: its grace is over.
LEAVING_KILL_GRACE_SECONDS = 2.0

#: What is due by time alone is looked for at most so often.
_TEND_SECONDS = 0.005

#: Told of a place that is free again: the job that had it, and how long it ran.
Freed = Callable[[Job, float], None]


class Runner:
    """Runs what it is given until it ends, and reports each through its stages."""

    def __init__(
        self, stages: Stages, admission: Admission, turns: Turns, settings: Settings
    ) -> None:
        self._stages = stages
        self._turns = turns
        self._settings = settings
        self._freed: Freed | None = None
        self._held: dict[str, Held] = {}
        self._draining = False
        self._tend_at = 0.0
        self._put_off = False
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="agent-helper")
        self._loop = Loop(self._tend_all, self._nap)
        self._processes = Processes(self._loop, self)
        self._pump = Pump(
            self._loop,
            self._helpers,
            stages.store_output,
            flush_seconds=settings.output_flush_seconds,
        )
        self._endings = Endings(
            self._loop, self._helpers, stages, self._pump, self._held, self._leave
        )
        self._preparation = Preparation(stages, self._endings.results, self._endings.reported)
        self._starts = Starts(
            self._loop, self._helpers, turns, admission, self._preparation, self._processes, self
        )

    def start(self, freed: Freed | None = None) -> None:
        """Begin to run what is offered. Raises OSError."""
        self._freed = freed
        self._processes.start()
        self._endings.results.start()
        self._loop.start()

    def leases(self) -> list[Lease]:
        """Everything that is RUNNING under this agent."""
        return [held.lease for held in list(self._held.values()) if held.started]

    def job_ids(self) -> set[str]:
        """The jobs that this agent holds, up to the last write of each."""
        return {held.job.job_id for held in list(self._held.values())}

    def offer(self, lease: Lease) -> None:
        """Run an assigned job, unless it runs already; a doubled hint changes nothing."""
        if not self._draining and lease.key not in self._held:
            self._helpers.submit(self._look_up, lease)

    def take(self, jobs: Sequence[Job]) -> None:
        """Run jobs that were claimed for this agent."""
        claimed = [Held(job=job, until=self._stages.until(job)) for job in jobs]
        self._held.update((held.key, held) for held in claimed)
        if self._draining:
            self._loop.post(lambda: self._send_away(claimed))
            return
        self._turns.join(claimed)
        self._loop.post(self._starts.advance)

    def extend(self, leases: Collection[Lease], until: float) -> None:
        """Let what runs under these leases run until then (monotonic): they were renewed."""
        keys = [lease.key for lease in leases]
        self._processes.extend(keys, until)
        self._loop.post(partial(self._extend, keys, until))

    def cancel(self, lease: Lease) -> None:
        """Stop a job that was asked to be cancelled."""
        outcome = Outcome(cause=Cause.EXIT, detail="stopped on request")
        self._post_stop(lease.key, outcome, self._settings.kill_grace_seconds)

    def abandon(self, lease: Lease) -> None:
        """Kill a job whose lease is lost; nothing of it is reported."""
        self._loop.post(lambda: self._abandon(lease.key))

    def give_back(self, reason: str) -> None:
        """Stop everything, and report that it is not run to its end here."""
        outcome = Outcome(cause=Cause.STOPPED, detail=reason)
        for key in list(self._held):
            self._post_stop(key, outcome, LEAVING_KILL_GRACE_SECONDS)

    def drain(self, grace_seconds: float) -> None:
        """Take nothing more, let what runs end within the grace, then stop it and leave."""
        self._draining = True
        self._loop.post(lambda: self._send_away(self._turns.overdue(float("inf"))))
        self._wait_until_empty(grace_seconds)
        self.give_back("its agent was stopped")
        self._wait_until_empty(LEAVING_KILL_GRACE_SECONDS + DRAIN_SECONDS + 1)
        self._stages.close()
        self._processes.stop()
        self._loop.stop()
        self._endings.results.stop()
        self._helpers.shutdown(wait=False, cancel_futures=True)

    # --- until its turn has come

    def _look_up(self, lease: Lease) -> None:
        """On a helper: the job of a hint waits for its place."""
        if held := self._preparation.look_up(lease):
            self._loop.post(lambda: self._join(held))

    def _join(self, held: Held) -> None:
        if held.key in self._held:
            return
        self._held[held.key] = held
        if self._draining:
            self._send_away([held])
        else:
            self._turns.join([held])
            self._starts.advance()

    def _send_away(self, waiting: Sequence[Held]) -> None:
        """Give back what was not spawned."""
        reason = (
            "its agent is stopping"
            if self._draining
            else "it does not fit beside what runs on its agent"
        )
        self._starts.send_away(waiting, reason)

    # --- line by line

    def begin(self, held: Held, attempt: Attempt) -> None:
        """It has its place and is laid out: spawn its first line, if it still may run."""
        if held.abandoned or held.stop_with is not None:
            # Nothing was spawned: the attempt has not been.
            self.send_back(held, held.stop_with.detail if held.stop_with else "")
        elif time.monotonic() >= held.until:
            self.send_back(held, "its lease was over before it could begin")
        else:
            self._note_begin(held, attempt)
            self._next_line(held, attempt)

    def begun(self, held: Held, attempt: Attempt) -> None:
        """Its first line has begun, as another's was over or in a place of its own."""
        self._note_begin(held, attempt)
        self._runs(held, attempt)
        if held.abandoned:
            self._end_processes(held, attempt)
            self._endings.discard(held)
        elif held.stop_with is not None:
            attempt.stop(held.stop_with, time.monotonic(), self._settings.kill_grace_seconds)

    def spawn(self, held: Held, attempt: Attempt, *, after: str = "") -> bool:
        """Spawn its next line, now or when the line of ``after`` is over; whether that was asked
        for.
        """
        try:
            self._processes.spawn(
                held.key,
                attempt.lines.popleft(),
                cwd=attempt.workspace.folder,
                env=attempt.env,
                until=held.until,
                after=after,
            )
        except (OSError, ValueError) as error:
            if isinstance(error, ConnectionError) and not attempt.has_run:
                # Its keeper is gone before it heard of it: no attempt is used up by that.
                self.send_back(held, "its keeper process died")
            else:
                self._cannot_run(held, attempt, str(error))
            return False
        return True

    def send_back(self, held: Held, reason: str) -> None:
        """It does not begin here: nothing of it was spawned."""
        self._endings.send_back(held, reason)

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
        attempt.running = attempt.has_run = True
        if not attempt.lines:
            self._starts.leads(held)

    def _cannot_run(self, held: Held, attempt: Attempt, reason: str) -> None:
        attempt.stopping = Outcome(cause=Cause.AGENT, detail=f"agent error: {reason}")
        self._end(held, attempt)

    def _end(self, held: Held, attempt: Attempt) -> None:
        """Its last process is gone: the place is free, though its output may still come."""
        attempt.end(time.monotonic())
        held.ended_at = self._stages.moment()
        self._leave(held)
        if not attempt.pipes:
            self._endings.finish(held, attempt)

    # --- what its keeper tells

    def opened(self, key: str, pipes: Sequence[int]) -> None:
        """A line goes on, or has printed much: its output is read from now on."""
        held = self._held.get(key)
        if held and held.attempt:
            self._pump.open(held.attempt, pipes)
        else:
            for fd in pipes:
                os.close(fd)

    def exited(self, key: str, code: int, printed: Sequence[bytes]) -> None:
        """A line has ended, with all that it started."""
        held = self._held.get(key)
        goes_on = False
        if held and held.attempt:
            held.attempt.running = False
            held.attempt.exit_code = code
            self._pump.take(held.attempt, printed)
            goes_on = self._next_line(held, held.attempt)
        if not goes_on:
            self._starts.over(key)

    def failed(self, key: str, reason: str) -> None:
        """A line could not be started, or was taken along by its keeper's death."""
        held = self._held.get(key)
        if held and held.lead:
            self._starts.failed(held, reason)
            return
        if held and held.attempt:
            self._cannot_run(held, held.attempt, reason)
        self._starts.over(key)

    def lapsed(self, key: str) -> None:
        """The lease was not renewed in time: its processes are dead, and it is ours no more."""
        self._abandon(key)

    # --- while it runs

    def _nap(self) -> float | None:
        """Until the next thing that time alone brings about."""
        if not self._held:
            return None
        now = time.monotonic()
        if self._put_off:
            return max(0.0, self._tend_at - now)
        printed = any(h.attempt and h.attempt.output.pending_bytes for h in [*self._held.values()])
        return LINGER_SECONDS if printed else self._settings.output_flush_seconds / 2

    def _tend_all(self) -> None:
        now = time.monotonic()
        self._put_off = now < self._tend_at
        if self._put_off:
            return
        self._tend_at = now + _TEND_SECONDS
        for held in list(self._held.values()):
            if held.attempt is not None and held.begun_at:
                self._tend_guarded(held, held.attempt, now)
        if self._turns.count():
            self._send_away(self._turns.overdue(now))

    def _tend_guarded(self, held: Held, attempt: Attempt, now: float) -> None:
        """A defect costs the attempt that it shows in, not the others."""
        try:
            self._tend(held, attempt, now)
        except Exception as error:
            events.error("agent.attempt_failed", error, job=held.job.job_id)
            attempt.stopping = Outcome(cause=Cause.AGENT, detail=f"agent error: {error!r}")
            attempt.flushing = False
            self._end_processes(held, attempt)
            self._endings.finish(held, attempt)

    def _tend(self, held: Held, attempt: Attempt, now: float) -> None:
        """Whatever is due for one attempt."""
        if now >= attempt.deadline and attempt.drained_by is None:
            seconds = attempt.job.timeout_ms / 1000
            late = Outcome(cause=Cause.TIMEOUT, detail=f"timed out after {seconds:g} s")
            attempt.stop(late, now, self._settings.kill_grace_seconds)
        number = attempt.signal_due(now)
        if number is not None:
            self._processes.signal(held.key, number)
        self._pump.flush(attempt, now)
        drained = attempt.drained_by is not None
        if drained and (not attempt.pipes or now >= (attempt.drained_by or 0)):
            self._endings.finish(held, attempt)

    # --- its end

    def _post_stop(self, key: str, outcome: Outcome, grace_seconds: float) -> None:
        def stop() -> None:
            held = self._held.get(key)
            if held and held.attempt and held.begun_at:
                held.attempt.stop(outcome, time.monotonic(), grace_seconds)
            elif held:
                held.stop_with = outcome
                if held.lead:
                    self._starts.withdraw(held, outcome.detail)

        self._loop.post(stop)

    def _abandon(self, key: str) -> None:
        held = self._held.get(key)
        if held is None or held.abandoned:
            return
        held.abandoned = True
        events.warn("agent.job_abandoned", job=held.job.job_id)
        attempt = held.attempt
        if attempt and held.begun_at and attempt.drained_by is None:
            self._end_processes(held, attempt)
            self._endings.discard(held)
        elif held.lead:
            self._starts.withdraw(held, "")

    def _end_processes(self, held: Held, attempt: Attempt) -> None:
        if attempt.running:
            self._processes.signal(held.key, signal.SIGKILL)
            attempt.running = False

    def _extend(self, keys: Sequence[str], until: float) -> None:
        for key in keys:
            if held := self._held.get(key):
                held.extend(until)

    def _leave(self, held: Held) -> None:
        """Its place is free, if it had one: for the next that waits, and for a claim."""
        if self._starts.leave(held) and self._freed:
            self._freed(held.job, held.ran_seconds)

    def _wait_until_empty(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._held and time.monotonic() < until:
            time.sleep(0.05)
