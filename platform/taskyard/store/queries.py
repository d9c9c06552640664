"""The jobs collection, read: pages for people, and what is live for the scheduler."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo.database import Database

from taskyard.documents import to_record
from taskyard.jobs.model import POISON_LOSSES, Job
from taskyard.jobs.states import HELD, JobStatus
from taskyard.workers.model import NOTHING, Usage

#: Free text has no index: it looks at this many of the newest jobs that match the rest.
TEXT_WINDOW = 10_000

#: A list does not carry what only a job's own page shows.
_LISTED = {"history": 0, "env": 0}


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """What a list shows; everything given must match."""

    statuses: Sequence[JobStatus] = ()
    worker: str | None = None
    label: str | None = None
    text: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Position:
    """The last job of a page: the next page begins behind it."""

    created_at: datetime
    job_id: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page, newest first, and where the next begins."""

    jobs: Sequence[Job] = field(default_factory=list)
    next: Position | None = None


class JobQueries:
    """Reads only; each is bounded and has an index."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._jobs = database["jobs"]

    def page(self, wanted: JobFilter, *, limit: int, after: Position | None = None) -> Page:
        """One page of jobs, newest first."""
        stages: list[dict[str, Any]] = [
            {"$match": _conditions(wanted, after)},
            {"$sort": {"createdAt": -1, "_id": -1}},
        ]
        if wanted.text:
            stages += [{"$limit": TEXT_WINDOW}, {"$match": _text_condition(wanted.text)}]
        stages += [{"$limit": limit + 1}, {"$project": _LISTED}]
        jobs = [to_record(Job, found) for found in self._jobs.aggregate(stages)]
        if len(jobs) <= limit:
            return Page(jobs=jobs)
        last = jobs[limit - 1]
        position = Position(created_at=last.created_at, job_id=last.job_id)
        return Page(jobs=jobs[:limit], next=position)

    def queue(self, *, per_shape: int) -> list[Job]:
        """The head of the queue in the scheduler's order: at most ``per_shape`` of each shape,
        so that a thousand jobs which fit nowhere cannot hide the ones that fit.
        """
        heads: list[Job] = []
        for shape in self._jobs.distinct("shape", {"status": str(JobStatus.QUEUED)}):
            found = self._jobs.find({"status": str(JobStatus.QUEUED), "shape": shape}, _LISTED)
            ordered = found.sort([("priority", -1), ("queuedAt", 1), ("_id", 1)]).limit(per_shape)
            heads.extend(to_record(Job, document) for document in ordered)
        return sorted(heads, key=_order)

    def ahead_of(self, job: Job, *, at_most: int = 10_000) -> int:
        """How many queued jobs come before ``job`` (counted up to ``at_most``)."""
        queued = {"status": str(JobStatus.QUEUED)}
        higher = {**queued, "priority": {"$gt": job.priority}}
        earlier = {**queued, "priority": job.priority, "queuedAt": {"$lt": job.queued_at}}
        return self._jobs.count_documents({"$or": [higher, earlier]}, limit=at_most)

    def usage(self, worker_ids: Iterable[str] | None = None) -> dict[str, Usage]:
        """What each worker has in use: the sum over its live jobs."""
        held: dict[str, Any] = {"leaseUntil": {"$exists": True}}
        if worker_ids is not None:
            held["assignedAgentId"] = {"$in": list(worker_ids)}
        totals: dict[str, Usage] = {}
        wanted = {"assignedAgentId": 1, "requiredCpu": 1, "requiredRamMb": 1, "losses": 1}
        for job in self._jobs.find(held, wanted):
            before = totals.get(job["assignedAgentId"], NOTHING)
            totals[job["assignedAgentId"]] = Usage(
                cpu=before.cpu + job["requiredCpu"],
                ram_mb=before.ram_mb + job["requiredRamMb"],
                job_ids=(*before.job_ids, job["_id"]),
                suspects=before.suspects + (job["losses"] >= POISON_LOSSES - 1),
            )
        return totals

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

    def queued_among(self, job_ids: Sequence[str]) -> set[str]:
        """Which of these jobs are still queued."""
        wanted = {"_id": {"$in": list(job_ids)}, "status": str(JobStatus.QUEUED)}
        return {found["_id"] for found in self._jobs.find(wanted, {"_id": 1})}

    def expired(self, now: datetime, *, limit: int) -> list[Job]:
        """Ended jobs whose time is over."""
        found = self._jobs.find({"expireAt": {"$lt": now}}, _LISTED).limit(limit)
        return [to_record(Job, document) for document in found]

    def uses_file(self, file_id: str) -> bool:
        """Whether a job names this file, as its input or as its result."""
        names = {"$or": [{"fileId": file_id}, {"resultFileId": file_id}]}
        return self._jobs.find_one(names, {"_id": 1}) is not None

    def cancels_among(self, job_ids: Sequence[str]) -> list[str]:
        """The leases of those of these jobs that were asked to be cancelled."""
        asked = {"_id": {"$in": list(job_ids)}, "cancelRequested": True}
        return [found["leaseId"] for found in self._jobs.find(asked, {"leaseId": 1})]

    def counts(self) -> Mapping[str, int]:
        """Live jobs by status."""
        live = [JobStatus.QUEUED, JobStatus.ASSIGNED, JobStatus.RUNNING]
        return {str(s): self._jobs.count_documents({"status": str(s)}) for s in live}

    def oldest_queued(self) -> datetime | None:
        """Since when the longest waiting job is queued, read off the index of what is queued."""
        stages: list[dict[str, Any]] = [
            {"$match": {"status": str(JobStatus.QUEUED)}},
            {"$group": {"_id": None, "at": {"$min": "$queuedAt"}}},
        ]
        return next((found["at"] for found in self._jobs.aggregate(stages, hint="queue")), None)


def _order(job: Job) -> tuple[int, datetime, str]:
    return (-job.priority, job.queued_at, job.job_id)


def _conditions(wanted: JobFilter, after: Position | None) -> dict[str, Any]:
    conditions: list[dict[str, Any]] = []
    if wanted.statuses:
        conditions.append({"status": {"$in": [str(status) for status in wanted.statuses]}})
    if wanted.worker:
        conditions.append({"assignedAgentId": wanted.worker})
    if wanted.label:
        conditions.append({"labels": wanted.label})
    if wanted.created_after:
        conditions.append({"createdAt": {"$gte": wanted.created_after}})
    if wanted.created_before:
        conditions.append({"createdAt": {"$lt": wanted.created_before}})
    if after:
        same = {"createdAt": after.created_at, "_id": {"$lt": after.job_id}}
        conditions.append({"createdAt": {"$lte": after.created_at}})
        conditions.append({"$or": [{"createdAt": {"$lt": after.created_at}}, same]})
    return {"$and": conditions} if conditions else {}


def _text_condition(text: str) -> dict[str, Any]:
    """The text as it stands, in any case; never a pattern of the caller's."""
    pattern = {"$regex": re.escape(text), "$options": "i"}
    return {"$or": [{"command": pattern}, {"filename": pattern}, {"_id": pattern}]}
