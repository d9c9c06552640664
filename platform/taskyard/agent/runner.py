"""The runner: one thread and one selector that hold many jobs at once.

Other threads only post commands to it. What blocks (the store, unpacking, packing) is done by
a few helper threads, which post back; so a slow database never stops a pipe from being read,
a timeout from being enforced or a cancel from being obeyed.
"""

from __future__ import annotations

import os
import queue
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from taskyard import events
from taskyard.agent import process
from taskyard.agent.attempt import DRAIN_SECONDS, Attempt
from taskyard.agent.stages import Refused, Stages
from taskyard.jobs.lifecycle import Outcome
from taskyard.jobs.model import Lease
from taskyard.jobs.retry import Cause
from taskyard.settings import Settings

_READ_BYTES = 64 * 1024

#: Output of one job that waits for the store before its pipes are left unread.
BACKLOG_BYTES = 1024 * 1024

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
    abandoned: bool = False
    #: Why it is to be stopped, while it was not yet spawned.
    stop_with: Outcome | None = None
    attempt: Attempt | None = None


class Runner:
    """Runs offered jobs until they end, and reports each through its stages."""

    def __init__(self, stages: Stages, settings: Settings) -> None:
        self._stages = stages
        self._settings = settings
        self._held: dict[str, _Held] = {}
        self._draining = False
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._hear)
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="agent-helper")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="runner", daemon=True)

    def start(self) -> None:
        """Begin to run what is offered."""
        self._thread.start()

    def leases(self) -> dict[str, str]:
        """Lease id -> job id of everything that is RUNNING under this agent."""
        held = list(self._held.items())
        return {key: entry.lease.job_id for key, entry in held if entry.started}

    def offer(self, lease: Lease) -> None:
        """Run an assigned job, unless it runs already; a doubled hint changes nothing."""
        self._post(lambda: self._admit(lease))

    def cancel(self, lease_id: str) -> None:
        """Stop a job that was asked to be cancelled."""
        outcome = Outcome(cause=Cause.EXIT, detail="stopped on request")
        self._post(lambda: self._stop(lease_id, outcome, self._settings.kill_grace_seconds))

    def abandon(self, lease_id: str) -> None:
        """Kill a job whose lease is lost; nothing of it is reported."""
        self._post(lambda: self._abandon(lease_id))

    def drain(self, grace_seconds: float) -> None:
        """Take nothing more, let what runs end within the grace, then stop it and leave."""
        self._post(self._begin_drain)
        self._wait_until_empty(grace_seconds)
        outcome = Outcome(cause=Cause.STOPPED, detail="its agent was stopped")
        for lease_id in list(self._held):
            self._post(partial(self._stop, lease_id, outcome, LEAVING_KILL_GRACE_SECONDS))
        self._wait_until_empty(LEAVING_KILL_GRACE_SECONDS + DRAIN_SECONDS + 1)
        self._stages.close()
        self._closed.set()
        self._wake()
        self._thread.join(timeout=2)
        self._helpers.shutdown(wait=False, cancel_futures=True)

    # --- commands, run by the runner's own thread

    def _admit(self, lease: Lease) -> None:
        key = lease.lease_id or ""
        if key in self._held:
            return
        if self._draining:
            self._helpers.submit(self._stages.release, lease, "its agent is stopping")
            return
        held = self._held[key] = _Held(lease=lease)
        self._helpers.submit(self._prepare, held)

    def _prepare(self, held: _Held) -> None:
        """On a helper: everything up to the first spawn."""

        def started() -> None:
            held.started = True

        try:
            attempt = self._stages.prepare(held.lease, on_started=started)
        except Refused as refusal:
            events.emit("agent.job_refused", job=held.lease.job_id, reason=str(refusal))
            self._post(lambda: self._forget(held))
        except Exception as error:
            events.warn("agent.prepare_failed", job=held.lease.job_id, error=repr(error))
            self._stages.fail(held.lease, error)
            self._post(lambda: self._forget(held))
        else:
            self._post(lambda: self._begin(held, attempt))

    def _begin(self, held: _Held, attempt: Attempt) -> None:
        held.attempt = attempt
        if held.abandoned:
            self._discard(held)
        elif held.stop_with is not None:
            self._give_back(held, held.stop_with.detail)
        else:
            self._next_line(held, attempt)

    def _give_back(self, held: _Held, reason: str) -> None:
        """Stopped before anything was spawned: the attempt has not been."""
        self._helpers.submit(self._stages.release, held.lease, reason)
        self._discard(held)

    def _begin_drain(self) -> None:
        self._draining = True

    def _stop(self, lease_id: str, outcome: Outcome, grace_seconds: float) -> None:
        held = self._held.get(lease_id)
        if held and held.attempt:
            held.attempt.stop(outcome, time.monotonic(), grace_seconds)
        elif held:
            held.stop_with = outcome

    def _abandon(self, lease_id: str) -> None:
        held = self._held.get(lease_id)
        if held is None or held.abandoned:
            return
        held.abandoned = True
        events.warn("agent.job_abandoned", job=held.lease.job_id)
        if held.attempt and held.attempt.drained_by is None:
            self._end_processes(held.attempt)
            self._discard(held)

    def _discard(self, held: _Held) -> None:
        """Drop an attempt whose lease is lost: nothing is written for it."""
        attempt = held.attempt
        assert attempt is not None
        self._close_pipes(attempt)
        self._helpers.submit(attempt.workspace.remove)
        self._stages.leave(held.lease)
        self._forget(held)

    def _forget(self, held: _Held) -> None:
        self._held.pop(held.lease.lease_id or "", None)

    # --- the loop

    def _run(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(self._nap()):
                key.data()
            while not self._commands.empty():
                self._commands.get()()
            now = time.monotonic()
            for held in list(self._held.values()):
                if held.attempt is not None:
                    self._tend(held, held.attempt, now)

    def _nap(self) -> float | None:
        """Until the next thing that time alone brings about."""
        attempts = [held.attempt for held in self._held.values() if held.attempt]
        return self._settings.output_flush_seconds / 2 if attempts else None

    def _tend(self, held: _Held, attempt: Attempt, now: float) -> None:
        """Whatever is due for one attempt."""
        if now >= attempt.deadline and attempt.drained_by is None:
            seconds = attempt.job.timeout_ms / 1000
            late = Outcome(cause=Cause.TIMEOUT, detail=f"timed out after {seconds:g} s")
            attempt.stop(late, now, self._settings.kill_grace_seconds)
        attempt.signal_due(now)
        self._flush(attempt, now)
        self._resume(attempt)
        if attempt.drained_by is not None and (not attempt.pipes or now >= attempt.drained_by):
            self._finish(held, attempt)

    def _next_line(self, held: _Held, attempt: Attempt) -> None:
        line = attempt.next_line()
        if line is None:
            attempt.drained_by = time.monotonic() + DRAIN_SECONDS
            self._end_processes(attempt)
            return
        try:
            running = process.spawn(line, cwd=attempt.workspace.folder, env=attempt.env)
        except OSError as error:
            attempt.stopping = Outcome(cause=Cause.AGENT, detail=f"agent error: {error}")
            attempt.drained_by = time.monotonic()
            return
        attempt.process = running
        for fd, stream in ((running.stdout_fd, "stdout"), (running.stderr_fd, "stderr")):
            attempt.pipes[fd] = stream
            self._watch(attempt, fd)
        self._selector.register(
            running.pidfd, selectors.EVENT_READ, lambda: self._exited(held, attempt)
        )

    def _exited(self, held: _Held, attempt: Attempt) -> None:
        running = attempt.process
        assert running is not None
        self._selector.unregister(running.pidfd)
        # What it left behind in its group goes before its number can be used again.
        running.signal_group(signal.SIGKILL)
        attempt.exit_code = running.reap()
        attempt.process = None
        self._next_line(held, attempt)

    def _end_processes(self, attempt: Attempt) -> None:
        if attempt.process is not None:
            self._selector.unregister(attempt.process.pidfd)
            attempt.process.signal_group(signal.SIGKILL)
            attempt.process.reap()
            attempt.process = None

    def _finish(self, held: _Held, attempt: Attempt) -> None:
        """Hand it to a helper, which stores the rest, packs the result and reports."""
        if attempt.flushing:
            return
        self._close_pipes(attempt)
        held.attempt = None
        attempt.output.finish()

        def report() -> None:
            try:
                self._stages.finish(attempt)
            finally:
                self._post(lambda: self._forget(held))

        self._helpers.submit(report)

    # --- output

    def _watch(self, attempt: Attempt, fd: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._read(attempt, fd))

    def _read(self, attempt: Attempt, fd: int) -> None:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(fd)
            attempt.pipes.pop(fd, None)
            os.close(fd)
            return
        attempt.output.feed(attempt.pipes[fd], data)
        if attempt.output.pending_bytes > BACKLOG_BYTES:
            attempt.paused = True
            for other in attempt.pipes:
                self._selector.unregister(other)

    def _resume(self, attempt: Attempt) -> None:
        """Read on once the store has caught up."""
        if attempt.paused and attempt.output.pending_bytes <= BACKLOG_BYTES // 2:
            attempt.paused = False
            for fd in attempt.pipes:
                self._watch(attempt, fd)

    def _flush(self, attempt: Attempt, now: float) -> None:
        """Have what was printed stored, one write at a time, so that the order stays."""
        if attempt.flushing or now < attempt.flush_due:
            return
        chunks = attempt.output.take()
        if not chunks:
            return
        attempt.flushing = True
        attempt.flush_due = now + self._settings.output_flush_seconds

        def store() -> None:
            self._stages.store_output(attempt, chunks)
            self._post(lambda: setattr(attempt, "flushing", False))

        self._helpers.submit(store)

    def _close_pipes(self, attempt: Attempt) -> None:
        for fd in list(attempt.pipes):
            if not attempt.paused:
                self._selector.unregister(fd)
            os.close(fd)
        attempt.pipes.clear()

    # --- waking the loop

    def _post(self, command: Callable[[], None]) -> None:
        self._commands.put(command)
        self._wake()

    def _wake(self) -> None:
        try:
            self._ring.send(b"!")
        except BlockingIOError:
            return  # the bell is full: it will be heard anyway

    def _hear(self) -> None:
        try:
            while self._bell.recv(4096):
                pass
        except BlockingIOError:
            return

    def _wait_until_empty(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._held and time.monotonic() < until:
            time.sleep(0.05)
