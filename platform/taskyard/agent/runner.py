"""The runner: holds many jobs at once, from the offer to the last write.

One thread tends them. What blocks (the store, packing) is done by a few helper threads, which
post back, and inputs, whose servers may be slow, come by threads of their own (``arrivals``); so a
slow database never stops a pipe from being read, a timeout from being enforced or a cancel from
being obeyed.

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

#: Threads for what blocks.
HELPERS = 8

#: Threads for inputs, which wait for servers elsewhere: made as they are needed.
FETCHERS = 32

#: Between SIGTERM and SIGKILL for what still runs when the agent leaves: its grace is over.
LEAVING_KILL_GRACE_SECONDS = 2.0

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
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="agent-helper")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="agent-fetcher")
        self._loop = Loop()
        pump = Pump(
            self._loop,
            self._helpers,
            stages.store_output,
            flush_seconds=settings.output_flush_seconds,
        )
        self._endings = Endings(self._loop, self._helpers, stages, pump, self._held, self._leave)
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

    def start(self, freed: Freed | None = None) -> None:
        """Begin to run what is offered. Raises OSError, RuntimeError where there is no room."""
        self._freed = freed
        self._running.processes.start()
        _start_all(self._helpers)
        self._endings.results.start()
        self._loop.start(self._tending.tend, self._tending.nap)

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
        self._running.processes.extend(keys, until)
        self._loop.post(partial(self._extend, keys, until))

    def cancel(self, lease: Lease) -> None:
        """Stop a job that was asked to be cancelled."""
        outcome = Outcome(cause=Cause.EXIT, detail="stopped on request")
        self._stop(lease.key, outcome, self._settings.kill_grace_seconds)

    def abandon(self, lease: Lease) -> None:
        """Kill a job whose lease is lost; nothing of it is reported."""
        self._loop.post(partial(self._running.abandon, lease.key))

    def give_back(self, reason: str) -> None:
        """Stop everything, and report that it is not run to its end here."""
        outcome = Outcome(cause=Cause.STOPPED, detail=reason)
        for key in list(self._held):
            self._stop(key, outcome, LEAVING_KILL_GRACE_SECONDS)

    def drain(self, grace_seconds: float) -> None:
        """Take nothing more, let what runs end within the grace, then stop it and leave."""
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
        """On a helper: the job of a hint waits for its place."""
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
        """Give back what was not spawned."""
        reason = (
            "its agent is stopping"
            if self._draining
            else "it does not fit beside what runs on its agent"
        )
        self._starts.send_away(waiting, reason)

    def _leave(self, held: Held) -> None:
        """Its place is free, if it had one: for the next that waits, and for a claim."""
        if self._starts.leave(held) and self._freed:
            self._freed(held.job, held.ran_seconds)

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
    """Have all of them now: where jobs have left no thread on the host, none can be had later."""
    all_there = threading.Barrier(HELPERS)
    try:
        list(helpers.map(lambda _: all_there.wait(), range(HELPERS)))
    except RuntimeError:
        all_there.abort()
        raise
