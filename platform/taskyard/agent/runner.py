"""The runner: holds many jobs at once, from the offer to the last write.

One thread tends them. What blocks (the store, unpacking, packing) is done by a few helper
threads, which post back; so a slow database never stops a pipe from being read, a timeout from
being enforced or a cancel from being obeyed.

A job comes as a hint of an assignment (``offer``) or claimed and RUNNING (``take``), waits for its
turn, is laid out, spawned line by line, and ends with its result.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from taskyard import events
from taskyard.agent.admission import Admission
from taskyard.agent.attempt import DRAIN_SECONDS, Attempt
from taskyard.agent.held import Held
from taskyard.agent.loop import Loop
from taskyard.agent.preparation import Preparation
from taskyard.agent.processes import Processes
from taskyard.agent.pump import LINGER_SECONDS, Pump
from taskyard.agent.results import Results
from taskyard.agent.stages import Stages
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
        self._admission = admission
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
        self._results = Results(stages.reporter, self._helpers, self._reported)
        self._preparation = Preparation(stages, self._results, self._reported)
        self._pump = Pump(
            self._loop,
            self._helpers,
            stages.store_output,
            flush_seconds=settings.output_flush_seconds,
        )

    def start(self, freed: Freed | None = None) -> None:
        """Begin to run what is offered. Raises OSError."""
        self._freed = freed
        self._processes.start()
        self._results.start()
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
        self._loop.post(self._advance)

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
        self._results.stop()
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
            self._advance()

    def _advance(self) -> None:
        """Let begin what has a place now."""
        for held in self._turns.admitted(self._admission):
            if not held.started or held.job.has_input:
                self._helpers.submit(self._prepare, held)
            elif self._preparation.lay_out(held) and held.attempt:
                self._begin(held, held.attempt)

    def _send_away(self, waiting: Sequence[Held]) -> None:
        """Give back what was not spawned."""
        reason = (
            "its agent is stopping"
            if self._draining
            else "it does not fit beside what runs on its agent"
        )
        for held in waiting:
            self._return(held, reason)

    def _prepare(self, held: Held) -> None:
        """On a helper: everything up to the first spawn."""
        if self._preparation.prepare(held) and held.attempt:
            self._loop.post(partial(self._begin, held, held.attempt))

    # --- line by line

    def _begin(self, held: Held, attempt: Attempt) -> None:
        if held.abandoned or held.stop_with is not None:
            # Nothing was spawned: the attempt has not been.
            self._return(held, held.stop_with.detail if held.stop_with else "")
        elif time.monotonic() >= held.until:
            self._return(held, "its lease was over before it could begin")
        else:
            held.begin(self._stages.moment().now)
            attempt.begin(time.monotonic())
            self._next_line(held, attempt)

    def _next_line(self, held: Held, attempt: Attempt) -> None:
        line = attempt.next_line()
        if line is None:
            self._end(held, attempt)
            return
        try:
            pipes = self._processes.spawn(
                held.key, line, cwd=attempt.workspace.folder, env=attempt.env, until=held.until
            )
        except (OSError, ValueError) as error:
            self._cannot_run(held, attempt, str(error))
            return
        attempt.running = True
        self._pump.open(attempt, *pipes)

    def _cannot_run(self, held: Held, attempt: Attempt, reason: str) -> None:
        attempt.stopping = Outcome(cause=Cause.AGENT, detail=f"agent error: {reason}")
        self._end(held, attempt)

    def _end(self, held: Held, attempt: Attempt) -> None:
        """Its last process is gone: the place is free, though its output may still come."""
        attempt.end(time.monotonic())
        held.ended_at = self._stages.moment()
        self._leave(held)
        if not attempt.pipes:
            self._finish(held, attempt)

    # --- what its keeper tells

    def exited(self, key: str, code: int) -> None:
        """A line has ended, with all that it started."""
        held = self._held.get(key)
        if held and held.attempt:
            held.attempt.running = False
            held.attempt.exit_code = code
            self._pump.drain(held.attempt)
            self._next_line(held, held.attempt)

    def failed(self, key: str, reason: str) -> None:
        """A line could not be started, or was taken along by its keeper's death."""
        held = self._held.get(key)
        if held and held.attempt:
            self._cannot_run(held, held.attempt, reason)

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
        nap = LINGER_SECONDS if printed else self._settings.output_flush_seconds / 2
        wait = self._pump.wait_seconds(now)
        return nap if wait is None else min(nap, wait)

    def _tend_all(self) -> None:
        now = time.monotonic()
        self._put_off = now < self._tend_at
        if self._put_off:
            return
        self._tend_at = now + _TEND_SECONDS
        self._pump.watch(now)
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
            self._finish(held, attempt)

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
            self._finish(held, attempt)

    # --- its end

    def _post_stop(self, key: str, outcome: Outcome, grace_seconds: float) -> None:
        def stop() -> None:
            held = self._held.get(key)
            if held and held.attempt and held.begun_at:
                held.attempt.stop(outcome, time.monotonic(), grace_seconds)
            elif held:
                held.stop_with = outcome

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
            self._discard(held)

    def _end_processes(self, held: Held, attempt: Attempt) -> None:
        if attempt.running:
            self._processes.signal(held.key, signal.SIGKILL)
            attempt.running = False

    def _extend(self, keys: Sequence[str], until: float) -> None:
        for key in keys:
            if held := self._held.get(key):
                held.extend(until)

    def _finish(self, held: Held, attempt: Attempt) -> None:
        """Have the result written; what is large is stored before, by a helper."""
        if attempt.flushing:
            return
        self._pump.close(attempt)
        held.attempt = None
        attempt.output.finish()
        self._leave(held)
        if self._stages.is_small(attempt):
            self._results.add(self._stages.small_result(held, attempt))
            self._stages.clear(attempt)
        else:
            self._helpers.submit(self._wind_up, held, attempt)

    def _wind_up(self, held: Held, attempt: Attempt) -> None:
        """On a helper: store the rest of its output and what it left."""
        try:
            result = self._stages.wind_up(held, attempt)
        except Exception as error:
            # Not reported: it is renewed no more, so its lease ends and it is tried elsewhere.
            events.error("agent.report_failed", error, job=held.job.job_id)
            self._reported(held)
        else:
            self._results.add(result)
        finally:
            self._stages.clear(attempt)

    def _return(self, held: Held, reason: str) -> None:
        """Give back a job of which nothing was spawned."""
        if not held.abandoned:
            self._helpers.submit(self._stages.release, held.lease, reason)
        self._discard(held)

    def _discard(self, held: Held) -> None:
        """Drop an attempt of which nothing is written any more."""
        attempt, held.attempt = held.attempt, None
        if attempt is not None:
            self._pump.close(attempt)
            self._helpers.submit(self._stages.clear, attempt)
        self._forget(held)

    def _reported(self, held: Held) -> None:
        """Nothing more is written of it; from any thread."""
        self._loop.post(lambda: self._forget(held))

    def _forget(self, held: Held) -> None:
        self._held.pop(held.key, None)
        self._leave(held)

    def _leave(self, held: Held) -> None:
        """Its place is free, if it had one: for the next that waits, and for a claim."""
        if self._admission.leave(held.key):
            self._advance()
            if self._freed:
                self._freed(held.job, held.ran_seconds)

    def _wait_until_empty(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._held and time.monotonic() < until:
            time.sleep(0.05)
