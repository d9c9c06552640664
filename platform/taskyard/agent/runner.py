"""The runner: holds many jobs at once, from the offer to the last write.

One thread, the loop, tends them. A few helper threads do what blocks (the store, packing) and post
back to the loop; inputs, whose servers may be slow, are fetched by threads of their own
(``arrivals``). So a slow database never keeps a pipe from being read, a timeout from being enforced
or a cancel from being obeyed.

A job comes as a hint of an assignment (``offer``) or claimed and RUNNING (``take``), waits for
its turn (``turns``), is laid out (``preparation``), begins (``starts``), runs line by line
(``running``), is tended meanwhile (``tending``), and ends with its result (``endings``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from taskyard.agent.admission import Admission
from taskyard.agent.arrivals import Arrivals
from taskyard.agent.attempt import DRAIN_SECONDS
from taskyard.agent.endings import Endings
from taskyard.agent.held import Held
from taskyard.agent.loop import Loop
from taskyard.agent.preparation import Preparation
from taskyard.agent.pump import Pump
from taskyard.agent.running import Running
from taskyard.agent.stages import Stages
from taskyard.agent.starts import Starts
from taskyard.agent.tending import Tending
from taskyard.agent.turns import Turns
from taskyard.jobs.model import Job, Lease
from taskyard.jobs.retry import Cause
from taskyard.jobs.transition import Outcome
from taskyard.settings import Settings

#: Threads for calls that block.
HELPERS = 8

#: Most threads for inputs, which wait for servers elsewhere; made when they are needed.
FETCHERS = 32

#: From SIGTERM to SIGKILL for jobs that still run when the agent leaves, or its boot is over.
LEAVING_KILL_GRACE_SECONDS = 2.0

#: Called when a place is free again, with the job that had it and how long that ran.
Freed = Callable[[Job, float], None]


class Runner:
    """Runs the jobs that it is given, and reports how each ended."""

    def __init__(
        self, stages: Stages, admission: Admission, turns: Turns, settings: Settings
    ) -> None:
        self._stages = stages
        self._turns = turns
        self._settings = settings
        self._freed: Freed | None = None
        self._requeued: Callable[[], None] | None = None
        self._held: dict[str, Held] = {}
        self._draining = False
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="agent-helper")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="agent-fetcher")
        self._loop = Loop()
        pump = Pump(
            self._loop,
            self._helpers,
            stages.store_output,
            flush_seconds=settings.output_flush_seconds,
        )
        self._endings = Endings(
            self._loop, self._helpers, stages, pump, self._held, self._leave, self._look_again
        )
        preparation = Preparation(self._helpers, stages, self._endings)
        arrivals = Arrivals(self._loop, self._fetchers, self._helpers, stages, preparation)
        self._running = Running(
            self._loop,
            stages,
            pump,
            self._endings,
            self._held,
            self._leave,
            kill_grace_seconds=settings.kill_grace_seconds,
        )
        self._starts = self._running.starts = Starts(
            self._loop,
            self._helpers,
            turns,
            admission,
            preparation,
            arrivals,
            self._endings,
            self._running,
        )
        self._tending = Tending(
            self._running, pump, self._endings, turns, self._held, self._send_away, settings
        )

    def start(self, freed: Freed | None = None, requeued: Callable[[], None] | None = None) -> None:
        """Begin to run jobs; ``requeued`` is called when one that ran here is to run again.

        Raises OSError or RuntimeError if the host has no room.
        """
        self._freed, self._requeued = freed, requeued
        self._running.processes.start()
        _start_all(self._helpers)
        self._endings.results.start()
        self._loop.start(self._tending.tend, self._tending.nap)

    def leases(self) -> list[Lease]:
        """Return the leases of the jobs that are RUNNING on this agent."""
        return [held.lease for held in list(self._held.values()) if held.started]

    def job_ids(self) -> set[str]:
        """Return the ids of the jobs that this agent holds, each until its last write."""
        return {held.job.job_id for held in list(self._held.values())}

    def run_assigned(self, lease: Lease) -> None:
        """Run an assigned job, unless it is held already: a repeated hint changes nothing."""
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
        """Let the jobs of these leases run until ``until`` (monotonic)."""
        keys = [lease.key for lease in leases]
        self._running.processes.extend(keys, until)
        self._loop.post(partial(self._extend, keys, until))

    def cancel(self, lease: Lease) -> None:
        """Stop a job whose cancel was requested."""
        outcome = Outcome(cause=Cause.EXIT, detail="stopped on request")
        self._stop(lease.key, outcome, self._settings.kill_grace_seconds)

    def abandon(self, lease: Lease) -> None:
        """Kill a job whose lease is lost, and report nothing of it."""
        self._loop.post(partial(self._running.abandon, lease.key))

    def give_back(self, reason: str) -> None:
        """Stop all jobs, and report that they do not run to their end here."""
        outcome = Outcome(cause=Cause.STOPPED, detail=reason)
        for key in list(self._held):
            self._stop(key, outcome, LEAVING_KILL_GRACE_SECONDS)

    def drain(self, grace_seconds: float) -> None:
        """Take no more jobs, let running ones end within the grace, stop the rest, then leave."""
        self._draining = True
        self._loop.post(lambda: self._send_away(self._turns.overdue(float("inf"))))
        self._wait_until_empty(grace_seconds)
        self.give_back("its agent was stopped")
        self._wait_until_empty(LEAVING_KILL_GRACE_SECONDS + DRAIN_SECONDS + 1)
        self._stages.reporter.close()
        self._running.processes.stop()
        self._loop.stop()
        self._endings.results.stop()
        for threads in (self._helpers, self._fetchers):
            threads.shutdown(wait=False, cancel_futures=True)

    # --- until its turn has come

    def _look_up(self, lease: Lease) -> None:
        """Read the job of a hint and have it wait for a place; runs on a helper."""
        if job := self._stages.assigned(lease):
            self._loop.post(lambda: self._join(Held(job=job)))

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
        """Give back jobs that were not spawned."""
        reason = (
            "its agent is stopping"
            if self._draining
            else "it does not fit beside what runs on its agent"
        )
        self._starts.send_away(waiting, reason)

    def _leave(self, held: Held) -> None:
        """Free the job's place, if it had one, for the next job that waits and for a claim."""
        if self._starts.leave(held) and self._freed:
            self._freed(held.job, held.ran_seconds)

    def _look_again(self) -> None:
        """A job that ran here waits in the queue again, and there may be a place for it here."""
        if self._requeued:
            self._requeued()

    # --- from any thread to the loop's

    def _stop(self, key: str, outcome: Outcome, grace_seconds: float) -> None:
        self._loop.post(partial(self._running.stop, key, outcome, grace_seconds))

    def _extend(self, keys: Sequence[str], until: float) -> None:
        for key in keys:
            if held := self._held.get(key):
                held.extend(until)

    def _wait_until_empty(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._held and time.monotonic() < until:
            time.sleep(0.05)


def _start_all(helpers: ThreadPoolExecutor) -> None:
    """Start all helper threads now: later, jobs may have left the host no thread."""
    all_there = threading.Barrier(HELPERS)
    try:
        list(helpers.map(lambda _: all_there.wait(), range(HELPERS)))
    except RuntimeError:
        all_there.abort()
        raise
