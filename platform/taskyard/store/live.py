"""The jobs collection, read for what is live: the queue, who holds what, what is overdue."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo.database import Database

from taskyard.documents import to_record
from taskyard.jobs.model import POISON_LOSSES, Job
from taskyard.jobs.states import HELD, LIVE, JobStatus
from taskyard.store.queries import COUNTED, COUNTED_FIRST, LISTED, count_in_state
from taskyard.workers.model import Usage

#: Kinds of requirement that one look at the queue reads: each is a query, and a pass that takes
#: seconds holds up the sweep, which runs in the same process.
SHAPES_AT_ONCE = 200

#: Queued jobs among which the longest waiting one is looked for.
CREATED_FIRST = 1_000

_CREATED = [("createdAt", 1), ("_id", 1)]
#: The scheduler's order; ``queue_order`` is the same.
IN_ORDER = [("priority", -1), ("queuedAt", 1), ("_id", 1)]


class LiveJobs:
    """Reads only, of live jobs alone; each has an index."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._jobs = database["jobs"]

    def queue(self, *, per_shape: int, shapes: int | None = None) -> list[Job]:
        """The head of the queue in the scheduler's order: at most ``per_shape`` of each shape,
        so that a thousand jobs which fit nowhere cannot hide the ones that fit.
        """
        return self.heads(dict.fromkeys(sorted(self.waiting_shapes())[:shapes], per_shape))

    def waiting_shapes(self) -> list[str]:
        """The shapes of which there are queued jobs."""
        queued = {"$match": {"status": str(JobStatus.QUEUED)}}
        # As ``distinct`` reads the index, whose answer has to fit in 16 MB.
        found = self._jobs.aggregate([queued, {"$group": {"_id": "$shape"}}], hint="queue")
        return [shape["_id"] for shape in found]

    def heads(self, limits: Mapping[str, int]) -> list[Job]:
        """The first queued jobs of each of these shapes, as many of it as it says; in the
        scheduler's order.

        Of more than ``SHAPES_AT_ONCE`` shapes some are looked at, and others the next time.
        """
        found = (self.first([shape], limits[shape]) for shape in _some(list(limits)))
        return sorted(itertools.chain.from_iterable(found), key=queue_order)

    def first(self, shapes: Sequence[str], limit: int, *, to_run: bool = False) -> list[Job]:
        """The first queued jobs of all these shapes together, in the scheduler's order: as many
        of them are read, and one of each shape. ``to_run`` brings what only their agent needs.

        Of more than ``SHAPES_AT_ONCE`` shapes some are looked at, and others the next time.
        """
        wanted = {"history": 0} if to_run else LISTED
        queued = {"status": str(JobStatus.QUEUED), "shape": {"$in": _some(shapes)}}
        # That index alone gives the shapes merged; from another all that is queued were sorted.
        found = self._jobs.find(queued, wanted).hint("queue").sort(IN_ORDER).limit(limit)
        return [to_record(Job, document) for document in found]

    def ahead_of(self, job: Job) -> int:
        """How many queued jobs come before ``job``, counted up to ``COUNTED``."""
        queued = {"status": str(JobStatus.QUEUED)}
        higher = {**queued, "priority": {"$gt": job.priority}}
        beside = {**queued, "priority": job.priority}
        earlier = {**beside, "queuedAt": {"$lt": job.queued_at}}
        # The jobs of a list have one instant.
        together = {**beside, "queuedAt": job.queued_at, "_id": {"$lt": job.job_id}}
        either = {"$or": [higher, earlier, together]}
        return self._jobs.count_documents(either, limit=COUNTED)

    def usage(self, worker_ids: Iterable[str] | None = None) -> dict[str, Usage]:
        """What each worker has in use: the sum over its live jobs."""
        held: dict[str, Any] = {"leaseUntil": {"$exists": True}}
        if worker_ids is not None:
            held["assignedAgentId"] = {"$in": list(worker_ids)}
        wanted = {"assignedAgentId": 1, "requiredCpu": 1, "requiredRamMb": 1, "losses": 1}
        by_worker: dict[str, list[dict[str, Any]]] = {}
        for job in self._jobs.find(held, wanted):
            by_worker.setdefault(job["assignedAgentId"], []).append(job)
        return {
            worker_id: Usage(
                cpu=sum(job["requiredCpu"] for job in jobs),
                ram_mb=sum(job["requiredRamMb"] for job in jobs),
                job_ids=tuple(job["_id"] for job in jobs),
                suspects=sum(job["losses"] >= POISON_LOSSES - 1 for job in jobs),
            )
            for worker_id, jobs in by_worker.items()
        }

    def held_by(self, worker_id: str, *statuses: JobStatus) -> list[Job]:
        """The jobs that a worker holds, in the order they were handed out."""
        wanted = [str(status) for status in statuses or tuple(HELD)]
        held = {"assignedAgentId": worker_id, "leaseUntil": {"$exists": True}}
        found = self._jobs.find({**held, "status": {"$in": wanted}})
        return [
            to_record(Job, document) for document in found.sort([("assignedAt", 1), ("_id", 1)])
        ]

    def overdue(self, now: datetime, *, limit: int) -> list[Job]:
        """Held jobs whose lease is over, the longest first."""
        found = self._jobs.find({"leaseUntil": {"$lt": now}}).sort("leaseUntil", 1)
        return [to_record(Job, document) for document in found.limit(limit)]

    def queued_among(self, job_ids: Sequence[str]) -> list[Job]:
        """Those of these jobs that are still queued, in any order."""
        if not job_ids:
            return []
        wanted = {"_id": {"$in": list(job_ids)}, "status": str(JobStatus.QUEUED)}
        return [to_record(Job, found) for found in self._jobs.find(wanted, LISTED)]

    def cancels_among(self, job_ids: Sequence[str]) -> set[str]:
        """Those of these jobs that were asked to be cancelled."""
        asked = {"_id": {"$in": list(job_ids)}, "cancelRequested": True}
        return {found["_id"] for found in self._jobs.find(asked, {"_id": 1})}

    def among(self, job_ids: Sequence[str]) -> list[str]:
        """Those of these jobs that have not ended, in this order."""
        states = [str(status) for status in LIVE]
        wanted = {"_id": {"$in": list(job_ids)}, "status": {"$in": states}}
        live = {found["_id"] for found in self._jobs.find(wanted, {"_id": 1})}
        return [job_id for job_id in job_ids if job_id in live]

    def counts(self) -> Mapping[str, int]:
        """Live jobs by status, each counted up to ``COUNTED_FIRST``."""
        live = [JobStatus.QUEUED, JobStatus.ASSIGNED, JobStatus.RUNNING]
        return {str(status): count_in_state(self._jobs, status, COUNTED_FIRST) for status in live}

    def oldest_queued(self) -> datetime | None:
        """Since when the longest waiting job is queued: of the ``CREATED_FIRST`` queued jobs that
        were created first, so it may be wrong when all of these were tried again.
        """
        queued = {"status": str(JobStatus.QUEUED)}
        created_first = self._jobs.find(queued, {"_id": 0, "queuedAt": 1}).sort(_CREATED)
        found = created_first.hint("newest_by_status").limit(CREATED_FIRST)
        return min((job["queuedAt"] for job in found), default=None)


def queue_order(job: Job) -> tuple[int, datetime, str]:
    """Where a queued job stands in the scheduler's order."""
    return (-job.priority, job.queued_at, job.job_id)


def _some(shapes: Sequence[str]) -> Sequence[str]:
    """As many as are looked at; at random, so that none is left out for good."""
    return random.sample(shapes, SHAPES_AT_ONCE) if len(shapes) > SHAPES_AT_ONCE else shapes
