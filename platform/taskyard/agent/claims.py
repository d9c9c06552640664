"""What this agent takes by itself: what is offered to it while it is free, and while it is busy
the next jobs of the queue, so that no place waits for a scheduler's pass or a message.

Claims are made in the order of a pass and by the same judge (``workers.places``): a worker that is
drained, cooling down or kept for a larger job takes nothing past that. For jobs that are over
within milliseconds a claim for each place would take longer than the jobs; then as many more are
claimed ahead as are over while claims are on their way.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from taskyard import events, ids
from taskyard.agent.admission import Admission
from taskyard.agent.turns import Turns
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.lifecycle import Moment
from taskyard.jobs.model import Job
from taskyard.jobs.states import HELD
from taskyard.store.failures import is_unavailable
from taskyard.workers import places
from taskyard.workers.model import NOTHING, Requirement, Worker
from taskyard.workers.places import Place

#: A job that ran no longer than this is short: for each that ended within this time, one is
#: claimed ahead.
SHORT_SECONDS = 0.025

#: Most jobs of one claim.
AT_ONCE = 64

_RETRY_SECONDS = 0.5


class Holder(Protocol):
    """The runner, as far as claims go."""

    def take(self, jobs: Sequence[Job]) -> None:
        """Run jobs that were claimed."""

    def job_ids(self) -> set[str]:
        """The jobs that it holds, up to the last write of each."""


class Claims:
    """Claims jobs for one agent on a thread of its own."""

    def __init__(
        self,
        platform: Platform,
        boot: str,
        admission: Admission,
        turns: Turns,
        runner: Holder,
    ) -> None:
        """``boot`` is the agent in this life of it."""
        self._store = platform.store
        self._settings = platform.settings
        self._boot = boot
        self._admission = admission
        self._turns = turns
        self._runner = runner
        self._offered: deque[Job] = deque()
        #: Short jobs that ended of late: when, and what place each left.
        self._ended: deque[tuple[float, Job]] = deque(maxlen=AT_ONCE)
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="claims", daemon=True)

    def start(self) -> None:
        """Begin with what is queued already."""
        self._wake.set()
        self._thread.start()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def offer(self, job: Job) -> None:
        """A job was submitted that has a place here, if nobody was faster."""
        self._offered.append(job)
        self._wake.set()

    def look(self) -> None:
        """Look at the queue: something may be there that was not offered."""
        self._wake.set()

    def freed(self, job: Job, ran_seconds: float) -> None:
        """A job's processes are gone, and its place is free."""
        if ran_seconds <= SHORT_SECONDS:
            self._ended.append((time.monotonic(), job))
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait()
            self._wake.clear()
            try:
                while not self._stopped and self.claim():
                    pass
            except Exception as error:
                if not is_unavailable(error):
                    events.error("agent.claim_failed", error)
                else:
                    events.warn("agent.store_unavailable", error=type(error).__name__)
                time.sleep(_RETRY_SECONDS)
                self._wake.set()

    def claim(self) -> bool:
        """Claim once; whether another claim may find more."""
        offered = [self._offered.popleft() for _ in range(len(self._offered))]
        short = self._short()
        # Ahead is filled up when half of it is used, so that each claim is of several jobs.
        ahead = len(short) if 2 * self._turns.count() <= len(short) else 0
        if not ahead and self._admission.is_full(self._turns.jobs()):
            return False
        shapes = [] if offered else self._store.queries.waiting_shapes()
        if not (offered or shapes) or (worker := self._worker()) is None:
            return False
        chosen = _chosen(offered, self._admission.place(worker, self._turns.jobs()), [], 0)
        if not chosen:
            chosen = _chosen(self._queue(worker, shapes), self._place(worker), short, ahead)
        if chosen:
            self._runner.take(self._won(worker, chosen))
        return bool(offered or chosen)

    def _queue(self, worker: Worker, shapes: Sequence[str]) -> list[Job]:
        """The head of the queue, but for what this agent could never hold."""
        able = [s for s in shapes if not places.could_never(worker, Requirement.of_shape(s))]
        return self._store.queries.heads(dict.fromkeys(able, AT_ONCE), to_run=True)

    def _worker(self) -> Worker | None:
        """This agent as it is stored; None while it may take nothing."""
        worker = self._store.workers.find(self._boot.rpartition("/")[0])
        if worker is None or worker.boot != self._boot:
            return None
        away = places.unavailable(worker, self._store.clock.now(), _EVER)
        return None if away else worker

    def _place(self, worker: Worker) -> Place:
        """What is in use here, with what a pass has assigned and we have not heard of yet, and
        what an earlier life of this agent still holds.
        """
        spot = self._admission.place(worker, self._turns.jobs())
        used = self._store.queries.usage([worker.worker_id]).get(worker.worker_id, NOTHING)
        if unknown := set(used.job_ids) - self._runner.job_ids():
            for job in self._store.queries.in_full(list(unknown)):
                if job.status in HELD:
                    spot.take(job)
        return spot

    def _short(self) -> list[Job]:
        """The short jobs that ended of late."""
        since = time.monotonic() - SHORT_SECONDS
        while self._ended and self._ended[0][0] < since:
            self._ended.popleft()
        return [job for _, job in self._ended]

    def _won(self, worker: Worker, chosen: Sequence[Job]) -> list[Job]:
        """The jobs that are ours now; one lease id stands for the batch."""
        now, lease_id = self._store.clock.now(), ids.lease()
        until = now + timedelta(seconds=self._settings.lease_seconds)
        transitions = [
            lifecycle.claim(
                job, worker=worker, lease_id=lease_id, at=Moment(now=now), lease_until=until
            )
            for job in chosen
        ]
        return [transition.moved() for transition in self._store.jobs.apply_all(transitions)]


#: How long a worker may be silent before it takes nothing: it is we who speak.
_EVER = timedelta(days=1)


def _chosen(queue: Sequence[Job], spot: Place, short: Sequence[Job], ahead: int) -> list[Job]:
    """What of the queue to claim: what fits now, and ``ahead`` more that need no more than a
    place of one of the short jobs. ``spot`` is filled with what fits.
    """
    chosen: list[Job] = []
    for job in queue:
        if len(chosen) >= AT_ONCE:
            break
        if places.fits(spot, job) is None:
            spot.take(job)
            chosen.append(job)
        elif ahead > 0 and _may_wait(job, spot, short):
            ahead -= 1
            chosen.append(job)
    return chosen


def _may_wait(job: Job, spot: Place, short: Sequence[Job]) -> bool:
    """Whether a job can be claimed before it has a place. Not one that has lost a worker (it
    would take those that wait with it along), and none whose input is fetched first.
    """
    plain = not (job.losses or job.has_input)
    return (
        plain
        and places.closed(spot, job) is None
        and any(
            job.required_cpu <= other.required_cpu and job.required_ram_mb <= other.required_ram_mb
            for other in short
        )
    )
