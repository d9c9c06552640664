"""Claims of jobs by this agent, so that no place waits for a scheduler's pass or a message.

A free agent claims the jobs that are offered to it; a busy one claims the next jobs of the queue.
Claims follow the order of a pass and the same judge (``workers.places``): a worker that is drained
or cooling down claims nothing, and one that is reserved for a larger job claims nothing else.

For jobs that end within milliseconds, a claim for each place would take longer than the jobs. Then
as many more jobs are claimed ahead as end while a claim is on its way.
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
from taskyard.agent.choice import AT_ONCE, choose, spread
from taskyard.agent.lookout import HEAD, HEAD_BESIDE_RIVALS, Lookout, Seen
from taskyard.agent.reporting import Reporter
from taskyard.agent.turns import Turns
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job
from taskyard.jobs.transition import Moment
from taskyard.store.failures import is_unavailable
from taskyard.workers import places
from taskyard.workers.model import Requirement, Worker
from taskyard.workers.places import Place

#: A job that ran no longer than this, or than a few claims take, is short: for each short job that
#: ended within that time, another is claimed ahead.
SHORT_SECONDS = 0.04
_SHORT_CLAIMS = 4
_SHORT_MOST_SECONDS = 0.25

#: How long after a lost claim an agent takes care not to claim what others do.
RIVALS_SECONDS = 1.0

_RETRY_SECONDS = 0.5


class Holder(Protocol):
    """What claims need of the runner."""

    def take(self, jobs: Sequence[Job]) -> None:
        """Run jobs that were claimed."""

    def job_ids(self) -> set[str]:
        """Return the ids of the jobs that the runner holds, each until its last write."""


class Claims:
    """Claims jobs for one agent on a thread of its own."""

    def __init__(
        self,
        platform: Platform,
        boot: str,
        admission: Admission,
        turns: Turns,
        runner: Holder,
        reporter: Reporter,
    ) -> None:
        """``boot`` names the current boot of this agent (``Worker.boot``)."""
        self._store = platform.store
        self._settings = platform.settings
        self._lookout = Lookout(platform.store, boot)
        self._seen: Seen | None = None
        self._short_seconds = SHORT_SECONDS
        #: Monotonic instant of the last claim that another agent was faster to make.
        self._lost_at = -RIVALS_SECONDS
        self._admission = admission
        self._turns = turns
        self._runner = runner
        self._reporter = reporter
        self._offered: deque[Job] = deque()
        #: Short jobs that ended lately, each with the monotonic instant of its end.
        self._ended: deque[tuple[float, Job]] = deque(maxlen=AT_ONCE)
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="claims", daemon=True)

    def start(self) -> None:
        """Begin to claim, first of what is queued already."""
        self._wake.set()
        self._thread.start()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def offer(self, job: Job) -> None:
        """Claim a newly submitted job that has a place here, if nobody is faster."""
        self._offered.append(job)
        self._wake.set()

    def know(self, worker: Worker | None) -> None:
        """Note this agent as it is stored; None while the stream of offers is down."""
        self._lookout.known = worker

    @property
    def is_replaced(self) -> bool:
        """Whether another process is known to have registered under this agent's id."""
        return self._lookout.is_replaced

    def look(self) -> None:
        """Look at the queue, which may have jobs that were not offered."""
        self._wake.set()

    def freed(self, job: Job, ran_seconds: float) -> None:
        """Note that a job's processes are gone, and claim for the place that it leaves."""
        if ran_seconds <= self._short_seconds:
            self._ended.append((time.monotonic(), job))
        # Not while more than half of what was claimed ahead still waits: see ``claim``.
        if 2 * self._turns.count() <= len(self._ended):
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
        """Claim once; return whether another claim may find more."""
        offered = [self._offered.popleft() for _ in range(len(self._offered))]
        short = self._short()
        # Claim ahead again only when half of it is used, so that each claim is of several jobs.
        ahead = len(short) if 2 * self._turns.count() <= len(short) else 0
        if not ahead and (self._turns.count() or not self._admission.has_room):
            return False
        began = time.monotonic()
        if offered:
            claimed = self._claim_of(self._own(offered), [], 0)
            # The rest of what was offered is not the head of the queue.
            self._seen = None
        else:
            claimed = self._claim_of(self._last_seen(), short, ahead)
            # If the queue as it was last seen holds nothing for a free place, it may as it is now.
            if not claimed and self._seen is None:
                head = HEAD_BESIDE_RIVALS if self._has_rivals else HEAD
                seen = self._lookout.look(self._runner.job_ids(), head=head)
                claimed = self._claim_of(seen, short, ahead)
        took = _SHORT_CLAIMS * (time.monotonic() - began)
        self._short_seconds = min(max(SHORT_SECONDS, took), _SHORT_MOST_SECONDS)
        return claimed and not offered

    def _own(self, offered: Sequence[Job]) -> Seen | None:
        worker = self._lookout.known_own()
        return Seen(worker=worker, queue=offered) if worker else None

    def _last_seen(self) -> Seen | None:
        """Return the queue as it was last seen, if that is fresh."""
        seen, self._seen = self._seen, None
        return seen if seen and seen.queue and seen.is_fresh else None

    def _claim_of(self, seen: Seen | None, short: Sequence[Job], ahead: int) -> bool:
        """Claim the seen jobs that have a place here; return whether there were any."""
        if seen is None:
            return False
        spot = self._admission.place(seen.worker, [*self._turns.jobs(), *seen.unknown])
        queue = spread(seen.queue) if self._has_rivals else seen.queue
        chosen = choose(queue, spot, short, ahead)
        chosen += self._behind(seen, chosen, spot)
        won = self._won(seen.worker, chosen) if chosen else []
        self._runner.take(won)
        if len(won) < len(chosen):
            self._lost_at = time.monotonic()
        is_outdated = self._keeps_a_place(seen.worker, won)
        if not is_outdated and (chosen or spot.is_full):
            self._seen = seen.without(chosen)
        return bool(chosen)

    @property
    def _has_rivals(self) -> bool:
        """Whether other agents claim from the same queue as fast as this one."""
        return time.monotonic() - self._lost_at < RIVALS_SECONDS

    def _behind(self, seen: Seen, chosen: Sequence[Job], spot: Place) -> list[Job]:
        """Choose jobs from behind the head of the queue that have a place beside the chosen."""
        if spot.is_full or len(chosen) >= AT_ONCE:
            return []
        fitting = [s for s in seen.behind if not places.too_full(spot, Requirement.of_shape(s))]
        had = {job.job_id for job in chosen}
        found = self._lookout.first(fitting) if fitting else []
        return choose([job for job in found if job.job_id not in had], spot, (), 0)

    def _keeps_a_place(self, worker: Worker, won: Sequence[Job]) -> bool:
        """Release this worker's reservation if a won job had it; return whether one did."""
        kept = worker.reserved_for
        if kept not in [job.job_id for job in won]:
            return False
        self._store.workers.reserve({}, {worker.worker_id: kept})
        return True

    def _short(self) -> list[Job]:
        """Return the short jobs that ended lately."""
        since = time.monotonic() - self._short_seconds
        while self._ended and self._ended[0][0] < since:
            self._ended.popleft()
        # A copy, since the runner's thread adds to it meanwhile.
        return [job for _, job in list(self._ended)]

    def _won(self, worker: Worker, chosen: Sequence[Job]) -> list[Job]:
        """Claim the chosen jobs under one lease id; return those that are ours now."""
        now, lease_id = self._store.clock.now(), ids.lease()
        until = now + timedelta(seconds=self._settings.lease_seconds)
        transitions = [
            lifecycle.claim(
                job, worker=worker, lease_id=lease_id, at=Moment(now=now), lease_until=until
            )
            for job in chosen
        ]
        # Try until the outcome is known: a claim that nobody remembers blocks its job for a lease.
        won = self._reporter.insist(lambda: self._store.jobs.apply_all(transitions))
        return [transition.moved() for transition in won]
