"""What an agent reads of itself and of the queue before it claims; writes nothing."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from taskyard.jobs.model import Job
from taskyard.jobs.states import HELD
from taskyard.store.client import Store
from taskyard.workers import places
from taskyard.workers.model import NOTHING, Requirement, Worker

#: How long a busy agent relies on what it last saw. It heeds a job of a higher priority, or
#: a drain, up to that much later; an idle agent looks before each claim.
SEEN_SECONDS = 0.2

#: Most queued jobs that are read at once. Beside rivals, which take them meanwhile, they are more:
#: the fewer of them are gone, the fewer claims are lost.
HEAD = 64
HEAD_BESIDE_RIVALS = 256

#: How old an agent's heartbeat may be when it judges itself: it is alive, since it asks.
_EVER = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """This agent and the head of the queue, as they were read at one moment."""

    worker: Worker
    #: The head of the queue, in the scheduler's order, without jobs that this agent could never
    #: hold.
    queue: Sequence[Job] = ()
    #: Shapes of which more jobs may be queued behind those.
    behind: Sequence[str] = ()
    #: Jobs that this worker holds in the store but its runner does not know.
    unknown: Sequence[Job] = ()
    at: float = field(default_factory=time.monotonic)

    @property
    def is_fresh(self) -> bool:
        """Whether it may still be relied on."""
        return time.monotonic() - self.at < SEEN_SECONDS

    def without(self, jobs: Collection[Job]) -> Seen:
        """The same, with these jobs gone from the queue."""
        gone = {job.job_id for job in jobs}
        return replace(self, queue=[job for job in self.queue if job.job_id not in gone])


class Lookout:
    """Reads for one agent; ``boot`` names its current boot (``Worker.boot``)."""

    def __init__(self, store: Store, boot: str) -> None:
        self._store = store
        self._boot = boot
        #: This agent as the stream of offers last reported it; None while that is down.
        self.known: Worker | None = None

    @property
    def is_replaced(self) -> bool:
        """Whether the agent is known to have another boot."""
        return self.known is not None and self.known.boot != self._boot

    def known_own(self) -> Worker | None:
        """Return this agent as last reported, or else as stored; None while it may take nothing."""
        return self._if_free(self.known) if self.known else self.own()

    def own(self) -> Worker | None:
        """Return this agent as it is stored; None while it may take nothing."""
        return self._if_free(self._store.workers.find(self._boot.rpartition("/")[0]))

    def _if_free(self, worker: Worker | None) -> Worker | None:
        if worker is None or worker.boot != self._boot:
            return None
        away = places.unavailable(worker, self._store.clock.now(), _EVER)
        return None if away else worker

    def look(self, known: Collection[str], *, head: int = HEAD) -> Seen | None:
        """Read up to ``head`` jobs; return None if there are none that this agent may take.

        ``known`` are the ids of the jobs that its runner holds.
        """
        shapes = self._store.live.waiting_shapes()
        worker = self.own() if shapes else None
        if worker is None:
            return None
        able = [s for s in shapes if not places.could_never(worker, Requirement.of_shape(s))]
        queue = self.first(able, head) if able else []
        if not queue:
            return None
        return Seen(
            worker=worker,
            queue=queue,
            behind=able if len(queue) == head else (),
            unknown=self._unknown(worker, known),
        )

    def first(self, shapes: Sequence[str], count: int = HEAD) -> list[Job]:
        """Return the first queued jobs of these shapes, ``count`` at most."""
        return self._store.live.first(shapes, count, to_run=True)

    def _unknown(self, worker: Worker, known: Collection[str]) -> list[Job]:
        """Return the jobs that are the worker's but that its runner does not know.

        A pass has just assigned them, or an earlier boot of this agent still holds them.
        """
        used = self._store.live.usage([worker.worker_id]).get(worker.worker_id, NOTHING)
        unknown = set(used.job_ids).difference(known)
        found = self._store.queries.in_full(list(unknown)) if unknown else []
        return [job for job in found if job.status in HELD]
