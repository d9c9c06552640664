"""The jobs collection, read: pages for people, and what is live for the scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo.database import Database

from taskyard.documents import to_record
from taskyard.jobs.model import POISON_LOSSES, Job
from taskyard.jobs.search import EVERYTHING, Comparison, Field, Search, created, equal, in_states
from taskyard.jobs.states import HELD, JobStatus
from taskyard.store.searches import LOOKED_AT, NEWEST_FIRST, Plan, Position, plan
from taskyard.workers.model import Usage

#: A list does not carry what only a job's own page shows.
_LISTED = {"history": 0, "env": 0, "smallOutput": 0}

#: Jobs of one state that are counted one by one; beyond it there are "more".
COUNTED = 10_000

#: Jobs of one state that metrics and statistics count, and that are looked at before something
#: is done to all that match.
COUNTED_FIRST = 100_000


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """What a list shows; everything given must match."""

    statuses: Sequence[JobStatus] = ()
    worker: str | None = None
    label: str | None = None
    text: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    search: Search = EVERYTHING

    def whole(self) -> Search:
        """All of it as one search."""
        found = self.search
        if self.statuses:
            found &= in_states(self.statuses)
        for name, value in ((Field.WORKER, self.worker), (Field.LABEL, self.label)):
            found &= equal(name, value) if value else EVERYTHING
        if self.text:
            found &= equal(Field.TEXT, self.text)
        if self.created_after:
            found &= created(Comparison.FROM, self.created_after)
        if self.created_before:
            found &= created(Comparison.BELOW, self.created_before)
        return found


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page, newest first, and where the next begins."""

    jobs: Sequence[Job] = field(default_factory=list)
    next: Position | None = None
    #: Set when the page is short because it has looked at all that one page may: created so far
    #: back. The next page looks further.
    looked_back_to: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many jobs match; at least so many where not all were looked at."""

    counts: Mapping[str, int] = field(default_factory=dict)
    #: States, or ``total``, of which there are more than were counted.
    more: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        """Of all states."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many jobs match; there may be ``more`` where not all were looked at."""

    jobs: int
    more: bool


@dataclass(frozen=True, kw_only=True)
class Depth:
    """How many jobs are queued, and since when the longest waiting one is."""

    jobs: int = 0
    oldest_queued_at: datetime | None = None


class JobQueries:
    """Reads only; each is bounded and has an index."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._jobs = database["jobs"]

    def page(self, wanted: JobFilter, *, limit: int, after: Position | None = None) -> Page:
        """One page of jobs, newest first."""
        chosen = plan(wanted.whole(), after=after)
        stages = [*chosen.stages(), {"$limit": limit + 1}, {"$project": _LISTED}]
        found = self._jobs.aggregate(stages, hint=chosen.index)
        jobs = [to_record(Job, document) for document in found]
        if len(jobs) > limit:
            last = jobs[limit - 1]
            position = Position(created_at=last.created_at, job_id=last.job_id)
            return Page(jobs=jobs[:limit], next=position)
        reached = self._reached(chosen) if chosen.is_bounded else None
        back_to = reached.created_at if reached else None
        return Page(jobs=jobs, next=reached, looked_back_to=back_to)

    def tally(self, search: Search) -> Tally:
        """How many jobs of each state match.

        What an index answers is counted up to ``COUNTED`` for each state, and of the rest as many
        of the newest are looked at as for a page.
        """
        if all(condition.field is Field.STATUS for condition in search.conditions):
            return self._tally_states(search.statuses)
        chosen = plan(search)
        counted = {"$group": {"_id": "$status", "count": {"$sum": 1}}}
        found = self._jobs.aggregate([*chosen.looked_at(), counted], hint=chosen.index)
        counts = {str(status): 0 for status in JobStatus} | {d["_id"]: d["count"] for d in found}
        more = frozenset(counts) if self._reached(chosen) else frozenset()
        return Tally(counts=counts, more=more)

    def _tally_states(self, statuses: Iterable[JobStatus]) -> Tally:
        wanted = set(statuses)
        counts = {
            str(status): self._count(status, COUNTED + 1) if status in wanted else 0
            for status in JobStatus
        }
        more = frozenset(name for name, count in counts.items() if count > COUNTED)
        return Tally(counts={n: min(c, COUNTED) for n, c in counts.items()}, more=more)

    def count(self, search: Search) -> Count:
        """How many jobs match, of the newest ``COUNTED_FIRST`` that the index gives."""
        chosen = plan(search)
        stages = [*chosen.looked_at(COUNTED_FIRST), {"$count": "jobs"}]
        jobs = sum(found["jobs"] for found in self._jobs.aggregate(stages, hint=chosen.index))
        return Count(jobs=jobs, more=self._reached(chosen, COUNTED_FIRST) is not None)

    def in_full(self, job_ids: Sequence[str]) -> list[Job]:
        """These jobs with all that is stored of them, in any order."""
        return [to_record(Job, found) for found in self._jobs.find({"_id": {"$in": list(job_ids)}})]

    def _reached(self, chosen: Plan, look_at: int | None = None) -> Position | None:
        """The last job that a bounded look looks at; None when there are no more than that."""
        last = (look_at or LOOKED_AT) - 1
        ordered = self._jobs.find(chosen.within, {"createdAt": 1}).hint(chosen.index)
        behind = ordered.sort(list(NEWEST_FIRST.items())).skip(last).limit(2)
        found = list(behind)
        if len(found) < 2:
            return None
        return Position(created_at=found[0]["createdAt"], job_id=found[0]["_id"])

    def queue(self, *, per_shape: int, shapes: int | None = None) -> list[Job]:
        """The head of the queue in the scheduler's order: at most ``per_shape`` of each shape,
        so that a thousand jobs which fit nowhere cannot hide the ones that fit.
        """
        return self.heads(dict.fromkeys(self.waiting_shapes()[:shapes], per_shape))

    def waiting_shapes(self) -> list[str]:
        """The shapes of which there are queued jobs."""
        return self._jobs.distinct("shape", {"status": str(JobStatus.QUEUED)})

    def heads(self, limits: Mapping[str, int], *, to_run: bool = False) -> list[Job]:
        """The first queued jobs of each of these shapes, as many of it as it says; in the
        scheduler's order. ``to_run`` brings what only their agent needs.
        """
        heads: list[Job] = []
        wanted = {"history": 0} if to_run else _LISTED
        for shape, limit in limits.items():
            found = self._jobs.find({"status": str(JobStatus.QUEUED), "shape": shape}, wanted)
            ordered = found.sort([("priority", -1), ("queuedAt", 1), ("_id", 1)]).limit(limit)
            heads.extend(to_record(Job, document) for document in ordered)
        return sorted(heads, key=queue_order)

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
        return [to_record(Job, found) for found in self._jobs.find(wanted, _LISTED)]

    def expired(self, now: datetime, *, limit: int) -> list[Job]:
        """Ended jobs whose time is over."""
        found = self._jobs.find({"expireAt": {"$lt": now}}, _LISTED).limit(limit)
        return [to_record(Job, document) for document in found]

    def uses_file(self, file_id: str) -> bool:
        """Whether a job names this file, as its input or as its result."""
        names = {"$or": [{"fileId": file_id}, {"resultFileId": file_id}]}
        return self._jobs.find_one(names, {"_id": 1}) is not None

    def retries_of(self, job_id: str, *, limit: int) -> list[Job]:
        """The jobs that ran this one again, the first of them first."""
        found = self._jobs.find({"retryOf": job_id}, _LISTED).limit(limit)
        return sorted((to_record(Job, document) for document in found), key=lambda j: j.job_id)

    def cancels_among(self, job_ids: Sequence[str]) -> set[str]:
        """Those of these jobs that were asked to be cancelled."""
        asked = {"_id": {"$in": list(job_ids)}, "cancelRequested": True}
        return {found["_id"] for found in self._jobs.find(asked, {"_id": 1})}

    def counts(self) -> Mapping[str, int]:
        """Live jobs by status, each counted up to ``COUNTED_FIRST``."""
        live = [JobStatus.QUEUED, JobStatus.ASSIGNED, JobStatus.RUNNING]
        return {str(status): self._count(status, COUNTED_FIRST) for status in live}

    def depth(self) -> Depth:
        """How long the queue is, counted up to ``COUNTED_FIRST``, and since when."""
        jobs = self._count(JobStatus.QUEUED, COUNTED_FIRST)
        return Depth(jobs=jobs, oldest_queued_at=self.oldest_queued() if jobs else None)

    def oldest_queued(self) -> datetime | None:
        """Since when the longest waiting job is queued: the first of each shape and priority is
        the oldest of them.
        """
        queued = {"status": str(JobStatus.QUEUED)}
        firsts = [
            self._jobs.find_one(
                {**queued, "shape": shape, "priority": priority},
                {"_id": 0, "queuedAt": 1},
                sort=[("queuedAt", 1)],
                hint="queue",
            )
            for shape in self.waiting_shapes()
            for priority in self._jobs.distinct("priority", {**queued, "shape": shape})
        ]
        return min((first["queuedAt"] for first in firsts if first), default=None)

    def _count(self, status: JobStatus, at_most: int) -> int:
        """By MongoDB's own ``count``, which reads keys alone: the aggregation that the driver
        counts by makes a document of each, and takes two to three times as long.
        """
        answer = self._jobs.database.command(
            "count",
            self._jobs.name,
            query={"status": str(status)},
            limit=at_most,
            hint="newest_by_status",
        )
        return int(answer["n"])


def queue_order(job: Job) -> tuple[int, datetime, str]:
    """Where a queued job stands in the scheduler's order."""
    return (-job.priority, job.queued_at, job.job_id)
