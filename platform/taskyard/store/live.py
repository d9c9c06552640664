"""Reads of live jobs: the queue, the jobs that workers hold, and overdue leases."""

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
from taskyard.workers.model import Usage, Worker

#: How many shapes (kinds of requirement) one look at the queue reads: each may be a query, and a
#: pass that takes seconds holds up the sweep, which runs in the same process.
SHAPES_AT_ONCE = 200

#: How many queued jobs are searched for the one that waits longest.
CREATED_FIRST = 1_000

_CREATED = [("createdAt", 1), ("_id", 1)]
#: The scheduler's order, for MongoDB; ``queue_order`` is the same for Python.
IN_ORDER = [("priority", -1), ("queuedAt", 1), ("_id", 1)]


class LiveJobs:
    """Queries of live jobs; each has an index."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._jobs = database["jobs"]

    def queue(self, *, per_shape: int, shapes: int | None = None) -> list[Job]:
        """The head of the queue in the scheduler's order: at most ``per_shape`` of each shape,
        so that a thousand jobs which fit nowhere cannot hide the ones that fit.
        """
        return self.heads(dict.fromkeys(sorted(self.waiting_shapes())[:shapes], per_shape))

    def waiting_shapes(self) -> list[str]:
        """The shapes of all queued jobs, each once."""
        queued = {"$match": {"status": str(JobStatus.QUEUED)}}
        # Reads the index as ``distinct`` would, whose answer has to fit in 16 MB.
        found = self._jobs.aggregate([queued, {"$group": {"_id": "$shape"}}], hint="queue")
        return [shape["_id"] for shape in found]

    def heads(self, limits: Mapping[str, int]) -> list[Job]:
        """The first queued jobs of each shape, at most ``limits[shape]`` of it; in the scheduler's
        order.

        Of more than ``SHAPES_AT_ONCE`` shapes a random selection is read.
        """
        found = (self.first([shape], limits[shape]) for shape in _some(list(limits)))
        return sorted(itertools.chain.from_iterable(found), key=queue_order)

    def first(self, shapes: Sequence[str], limit: int, *, to_run: bool = False) -> list[Job]:
        """The first ``limit`` queued jobs of these shapes together, in the scheduler's order.
        MongoDB reads these and one job of each shape. With ``to_run`` the jobs have the fields that
        only their agent needs.

        Of more than ``SHAPES_AT_ONCE`` shapes a random selection is read.
        """
        wanted = {"history": 0} if to_run else LISTED
        queued = {"status": str(JobStatus.QUEUED), "shape": {"$in": _some(shapes)}}
        # Only this index lets MongoDB merge the shapes; with another it would sort the whole queue.
        found = self._jobs.find(queued, wanted).hint("queue").sort(IN_ORDER).limit(limit)
        return [to_record(Job, document) for document in found]

    def ahead_of(self, job: Job) -> int:
        """How many queued jobs come before ``job``, counted up to ``COUNTED``."""
        queued = {"status": str(JobStatus.QUEUED)}
        higher = {**queued, "priority": {"$gt": job.priority}}
        beside = {**queued, "priority": job.priority}
        earlier = {**beside, "queuedAt": {"$lt": job.queued_at}}
        # Jobs that were submitted in one list have the same ``queuedAt``.
        together = {**beside, "queuedAt": job.queued_at, "_id": {"$lt": job.job_id}}
        either = {"$or": [higher, earlier, together]}
        return self._jobs.count_documents(either, limit=COUNTED)

    def usage(
        self, worker_ids: Iterable[str] | None = None, *, besides: str | None = None
    ) -> dict[str, Usage]:
        """What each worker has in use: the sum over its live jobs, but for the job ``besides``."""
        held: dict[str, Any] = {"leaseUntil": {"$exists": True}}
        if worker_ids is not None:
            held["assignedAgentId"] = {"$in": list(worker_ids)}
        if besides is not None:
            held["_id"] = {"$ne": besides}
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

    def unheard_of(self, worker: Worker) -> list[Job]:
        """The running jobs that this boot of the worker was handed, and has shown no life of."""
        handed = {
            "assignedAgentId": worker.worker_id,
            "leaseUntil": {"$exists": True},
            "agentBoot": worker.boot,
            "lastSeenAt": {"$exists": False},
        }
        found = self._jobs.find({**handed, "status": str(JobStatus.RUNNING)})
        return [to_record(Job, document) for document in found.sort("assignedAt", 1)]

    def overdue(self, now: datetime, *, limit: int) -> list[Job]:
        """Held jobs whose lease has run out, the longest overdue first."""
        found = self._jobs.find({"leaseUntil": {"$lt": now}}).sort("leaseUntil", 1)
        return [to_record(Job, document) for document in found.limit(limit)]

    def queued_among(self, job_ids: Sequence[str]) -> list[Job]:
        """The jobs among these that are still queued, in any order."""
        if not job_ids:
            return []
        wanted = {"_id": {"$in": list(job_ids)}, "status": str(JobStatus.QUEUED)}
        return [to_record(Job, found) for found in self._jobs.find(wanted, LISTED)]

    def cancels_among(self, job_ids: Sequence[str]) -> set[str]:
        """The ids among these whose job has a cancel request."""
        asked = {"_id": {"$in": list(job_ids)}, "cancelRequested": True}
        return {found["_id"] for found in self._jobs.find(asked, {"_id": 1})}

    def among(self, job_ids: Sequence[str]) -> list[str]:
        """The ids among these whose job has not ended, in the same order."""
        states = [str(status) for status in LIVE]
        wanted = {"_id": {"$in": list(job_ids)}, "status": {"$in": states}}
        live = {found["_id"] for found in self._jobs.find(wanted, {"_id": 1})}
        return [job_id for job_id in job_ids if job_id in live]

    def counts(self) -> Mapping[str, int]:
        """Live jobs by status, each counted up to ``COUNTED_FIRST``."""
        live = [JobStatus.QUEUED, JobStatus.ASSIGNED, JobStatus.RUNNING]
        return {str(status): count_in_state(self._jobs, status, COUNTED_FIRST) for status in live}

    def oldest_queued(self) -> datetime | None:
        """When the job that waits longest was queued. Only the ``CREATED_FIRST`` queued jobs that
        were created first are searched, so the answer may be wrong when all of these were requeued.
        """
        queued = {"status": str(JobStatus.QUEUED)}
        created_first = self._jobs.find(queued, {"_id": 0, "queuedAt": 1}).sort(_CREATED)
        found = created_first.hint("newest_by_status").limit(CREATED_FIRST)
        return min((job["queuedAt"] for job in found), default=None)


def queue_order(job: Job) -> tuple[int, datetime, str]:
    """The key that sorts queued jobs in the scheduler's order."""
    return (-job.priority, job.queued_at, job.job_id)


def _some(shapes: Sequence[str]) -> Sequence[str]:
    """At most ``SHAPES_AT_ONCE`` of the shapes, at random, so that none is left out for good."""
    return random.sample(shapes, SHAPES_AT_ONCE) if len(shapes) > SHAPES_AT_ONCE else shapes
