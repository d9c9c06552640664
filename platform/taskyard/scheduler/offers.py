"""Offers of new jobs to agents: a hint in the job itself, which wakes the agent it names.

An offer binds nobody. The agent claims the job if its place is still free, any other agent may do
so too, and the next pass assigns what nobody has claimed. On an idle platform an offer saves a
pass, the write of an assignment and a message before the job can begin
(``docs/decisions/0012-offers-and-claims.md``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from taskyard.documents import with_values
from taskyard.jobs.model import Job
from taskyard.settings import Settings
from taskyard.store.client import Store
from taskyard.workers import placement, places
from taskyard.workers.places import Place

#: How long the usage that was read, with the offers since, is relied on. After that workers are
#: taken to be free again, for as long: an offer too many costs a note and its agent one look, an
#: offer too few costs a pass.
FRESH_SECONDS = 0.02

#: How often the workers are read again, so that a new agent is offered jobs even while others
#: take all.
AGAIN_SECONDS = 1.0

_NEVER = timedelta(days=3650)


@dataclass(frozen=True, kw_only=True)
class _View:
    #: The agents that may be given work, filled as jobs are offered.
    places: Sequence[Place]
    #: When the workers were read, and since when the places are filled, on the monotonic clock.
    seen_at: float
    filled_since: float

    def renewed(self) -> _View:
        """Return the view itself while it is fresh, else one with the places free again."""
        now = time.monotonic()
        if now - self.filled_since < FRESH_SECONDS:
            return self
        free = [Place(worker=place.worker) for place in self.places]
        return replace(self, places=free, filled_since=now)


class Offers:
    """The workers as one process last read them, and the offers that it has made since."""

    def __init__(self) -> None:
        self._view: _View | None = None
        #: Requests submit in parallel, and fill the same places.
        self._filling = threading.Lock()

    def look_again(self, store: Store, settings: Settings) -> None:
        """Read the workers again, unless that was done within ``AGAIN_SECONDS``."""
        if self._view is None or time.monotonic() - self._view.seen_at > AGAIN_SECONDS:
            self.look(store, settings)

    def look(self, store: Store, settings: Settings) -> None:
        """Read which agents may be given work, and what they have in use."""
        now, offline_after = store.clock.now(), settings.offline_after
        listed = [worker for worker in store.workers.listed() if worker.kind == "celery"]
        workers = [w for w in listed if places.unavailable(w, now, offline_after) is None]
        usage = store.live.usage([worker.worker_id for worker in workers])
        spots = [places.place_of(worker, usage) for worker in workers]
        read_at = time.monotonic()
        with self._filling:
            self._view = _View(places=spots, seen_at=read_at, filled_since=read_at)

    def made(self, jobs: Sequence[Job]) -> list[Job]:
        """Return these new jobs, each offered to an agent with a place for it, if there is one.

        The jobs are not stored here.
        """
        with self._filling:
            if self._view is None:
                return list(jobs)
            self._view = self._view.renewed()
            plan = placement.place(
                jobs, self._view.places, now=jobs[0].queued_at, reserve_after=_NEVER
            )
        agents = {job.job_id: worker_id for job, worker_id in plan.placements}
        return [
            with_values(job, offered_to=agents[job.job_id]) if job.job_id in agents else job
            for job in jobs
        ]
