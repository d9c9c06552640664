"""The runner: holds many jobs at once, from the offer to the last write.

One thread tends them. What blocks (the store, unpacking, packing) is done by a few helper
threads, which post back; so a slow database never stops a pipe from being read, a timeout from
being enforced or a cancel from being obeyed.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from taskyard import events
from taskyard.agent.attempt import DRAIN_SECONDS, Attempt
from taskyard.agent.loop import Loop
from taskyard.agent.processes import Processes
from taskyard.agent.pump import Pump
from taskyard.agent.stages import Refused, Stages
from taskyard.jobs.lifecycle import Outcome
from taskyard.jobs.model import Lease
from taskyard.jobs.retry import Cause
from taskyard.settings import Settings

#: Threads for what blocks.
HELPERS = 8

#: Between SIGTERM and SIGKILL for what still runs when the agent leaves: its grace is over.
LEAVING_KILL_GRACE_SECONDS = 2.0


@dataclass(kw_only=True)
class _Held:
    """A lease that this agent holds, from the offer to the last write."""

    lease: Lease
    #: Set once the job is RUNNING under it, so that it is renewed.
    started: bool = False
    #: Monotonic instant past which nothing may run under it.
    until: float = 0.0
    abandoned: bool = False
    #: Why it is to be stopped, while it was not yet spawned.
    stop_with: Outcome | None = None
    attempt: Attempt | None = None

    @property
    def key(self) -> str:
        return self.lease.lease_id or ""

    def begin(self, until: float) -> None:
        """The job is RUNNING under it."""
        self.until = until
        self.started = True


class Runner:
    """Runs offered jobs until they end, and reports each through its stages."""

    def __init__(self, stages: Stages, settings: Settings) -> None:
        self._stages = stages
        self._settings = settings
        self._held: dict[str, _Held] = {}
        self._draining = False
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="agent-helper")
        self._loop = Loop(self._tend_all, self._nap)
        self._processes = Processes(self._loop, self)
        self._pump = Pump(
            self._loop,
            self._helpers,
            stages.store_output,
            flush_seconds=settings.output_flush_seconds,
        )

    def start(self) -> None:
        """Begin to run what is offered. Raises OSError."""
        self._processes.start()
        self._loop.start()

    def leases(self) -> dict[str, str]:
        """Lease id -> job id of everything that is RUNNING under this agent."""
        held = list(self._held.items())
        return {key: entry.lease.job_id for key, entry in held if entry.started}

    def offer(self, lease: Lease) -> None:
        """Run an assigned job, unless it runs already; a doubled hint changes nothing."""
        self._loop.post(lambda: self._admit(lease))

    def extend(self, lease_ids: Sequence[str], until: float) -> None:
        """Let what runs under these leases run until then (monotonic): they were renewed."""
        self._processes.extend(lease_ids, until)
        self._loop.post(partial(self._extend, lease_ids, until))

    def cancel(self, lease_id: str) -> None:
        """Stop a job that was asked to be cancelled."""
        outcome = Outcome(cause=Cause.EXIT, detail="stopped on request")
        self._post_stop(lease_id, outcome, self._settings.kill_grace_seconds)

    def abandon(self, lease_id: str) -> None:
        """Kill a job whose lease is lost; nothing of it is reported."""
        self._loop.post(lambda: self._abandon(lease_id))

    def give_back(self, reason: str) -> None:
        """Stop everything, and report that it is not run to its end here."""
        outcome = Outcome(cause=Cause.STOPPED, detail=reason)
        for lease_id in list(self._held):
            self._post_stop(lease_id, outcome, LEAVING_KILL_GRACE_SECONDS)

    def drain(self, grace_seconds: float) -> None:
        """Take nothing more, let what runs end within the grace, then stop it and leave."""
        self._loop.post(partial(setattr, self, "_draining", True))
        self._wait_until_empty(grace_seconds)
        self.give_back("its agent was stopped")
        self._wait_until_empty(LEAVING_KILL_GRACE_SECONDS + DRAIN_SECONDS + 1)
        self._stages.close()
        self._processes.stop()
        self._loop.stop()
        self._helpers.shutdown(wait=False, cancel_futures=True)

    # --- the beginning of an attempt

    def _admit(self, lease: Lease) -> None:
        held = _Held(lease=lease)
        if held.key in self._held:
            return
        if self._draining:
            self._helpers.submit(self._stages.release, lease, "its agent is stopping")
            return
        self._held[held.key] = held
        self._helpers.submit(self._prepare, held)

    def _prepare(self, held: _Held) -> None:
        """On a helper: everything up to the first spawn."""
        try:
            attempt = self._stages.prepare(held.lease, on_started=held.begin)
        except Refused as refusal:
            events.emit("agent.job_refused", job=held.lease.job_id, reason=str(refusal))
            self._loop.post(lambda: self._forget(held))
        except Exception as error:
            events.warn("agent.prepare_failed", job=held.lease.job_id, error=repr(error))
            self._report_unprepared(held, error)
        else:
            self._loop.post(lambda: self._begin(held, attempt))

    def _report_unprepared(self, held: _Held, error: Exception) -> None:
        try:
            self._stages.fail(held.lease, error)
        except Exception as failure:
            events.error("agent.report_failed", failure, job=held.lease.job_id)
            self._stages.leave(held.lease)
        finally:
            self._loop.post(lambda: self._forget(held))

    def _begin(self, held: _Held, attempt: Attempt) -> None:
        held.attempt = attempt
        if held.abandoned:
            self._discard(held)
        elif held.stop_with is not None:
            # Nothing was spawned: the attempt has not been.
            self._helpers.submit(self._stages.release, held.lease, held.stop_with.detail)
            self._discard(held)
        else:
            self._next_line(held, attempt)

    def _next_line(self, held: _Held, attempt: Attempt) -> None:
        line = attempt.next_line()
        if line is None:
            attempt.drained_by = time.monotonic() + DRAIN_SECONDS
            return
        try:
            pipes = self._processes.spawn(
                held.key, line, cwd=attempt.workspace.folder, env=attempt.env, until=held.until
            )
        except (OSError, ValueError) as error:
            self._cannot_run(attempt, str(error))
            return
        attempt.running = True
        self._pump.open(attempt, *pipes)

    def _cannot_run(self, attempt: Attempt, reason: str) -> None:
        attempt.running = False
        attempt.stopping = Outcome(cause=Cause.AGENT, detail=f"agent error: {reason}")
        attempt.drained_by = time.monotonic()

    # --- what its keeper tells

    def exited(self, key: str, code: int) -> None:
        """A line has ended, with all that it started."""
        held = self._held.get(key)
        if held and held.attempt:
            held.attempt.running = False
            held.attempt.exit_code = code
            self._next_line(held, held.attempt)

    def failed(self, key: str, reason: str) -> None:
        """A line could not be started, or was taken along by its keeper's death."""
        held = self._held.get(key)
        if held and held.attempt:
            self._cannot_run(held.attempt, reason)

    def lapsed(self, key: str) -> None:
        """The lease was not renewed in time: its processes are dead, and it is ours no more."""
        self._abandon(key)

    # --- while it runs

    def _nap(self) -> float | None:
        """Until the next thing that time alone brings about."""
        running = any(held.attempt for held in list(self._held.values()))
        return self._settings.output_flush_seconds / 2 if running else None

    def _tend_all(self) -> None:
        now = time.monotonic()
        for held in list(self._held.values()):
            if held.attempt is not None:
                self._tend_guarded(held, held.attempt, now)

    def _tend_guarded(self, held: _Held, attempt: Attempt, now: float) -> None:
        """A defect costs the attempt that it shows in, not the others."""
        try:
            self._tend(held, attempt, now)
        except Exception as error:
            events.error("agent.attempt_failed", error, job=held.lease.job_id)
            attempt.stopping = Outcome(cause=Cause.AGENT, detail=f"agent error: {error!r}")
            attempt.flushing = False
            self._end_processes(held, attempt)
            self._finish(held, attempt)

    def _tend(self, held: _Held, attempt: Attempt, now: float) -> None:
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

    def _post_stop(self, lease_id: str, outcome: Outcome, grace_seconds: float) -> None:
        def stop() -> None:
            held = self._held.get(lease_id)
            if held and held.attempt:
                held.attempt.stop(outcome, time.monotonic(), grace_seconds)
            elif held:
                held.stop_with = outcome

        self._loop.post(stop)

    def _abandon(self, lease_id: str) -> None:
        held = self._held.get(lease_id)
        if held is None or held.abandoned:
            return
        held.abandoned = True
        events.warn("agent.job_abandoned", job=held.lease.job_id)
        if held.attempt and held.attempt.drained_by is None:
            self._end_processes(held, held.attempt)
            self._discard(held)

    def _end_processes(self, held: _Held, attempt: Attempt) -> None:
        if attempt.running:
            self._processes.signal(held.key, signal.SIGKILL)
            attempt.running = False

    def _extend(self, lease_ids: Sequence[str], until: float) -> None:
        for lease_id in lease_ids:
            if held := self._held.get(lease_id):
                held.until = max(held.until, until)

    def _finish(self, held: _Held, attempt: Attempt) -> None:
        """Hand it to a helper, which stores the rest, packs the result and reports."""
        if attempt.flushing:
            return
        self._pump.close(attempt)
        held.attempt = None
        attempt.output.finish()
        self._helpers.submit(self._report, held, attempt)

    def _report(self, held: _Held, attempt: Attempt) -> None:
        """On a helper."""
        try:
            self._stages.finish(attempt)
        except Exception as error:
            # Not reported: it is renewed no more, so its lease ends and it is tried elsewhere.
            events.error("agent.report_failed", error, job=held.lease.job_id)
            self._stages.leave(held.lease)
        finally:
            self._loop.post(lambda: self._forget(held))

    def _discard(self, held: _Held) -> None:
        """Drop an attempt whose lease is lost: nothing is written for it."""
        attempt = held.attempt
        assert attempt is not None
        self._pump.close(attempt)
        self._helpers.submit(attempt.workspace.remove)
        self._stages.leave(held.lease)
        self._forget(held)

    def _forget(self, held: _Held) -> None:
        self._held.pop(held.key, None)

    def _wait_until_empty(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._held and time.monotonic() < until:
            time.sleep(0.05)
