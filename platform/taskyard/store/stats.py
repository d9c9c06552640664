"""The stats collection: one document for each minute, ten minutes and hour.

Counts are taken from the jobs each time anew and replace the stored ones, so two ticks at once, or
one too many, change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne, WriteConcern
from pymongo.database import Database

from taskyard.jobs.states import JobStatus
from taskyard.stats.common_errors import SeenError
from taskyard.stats.histogram import BUCKETS
from taskyard.stats.rollup import HOUR, MINUTE, TEN_MINUTES, Rollup

Document = dict[str, Any]

_KEPT = {
    MINUTE: timedelta(hours=26),
    TEN_MINUTES: timedelta(days=2),
    HOUR: timedelta(days=8),
}

#: How many failed jobs are searched for the commonest errors.
ERRORS_LOOKED_AT = 2_000

_COUNTS = {
    JobStatus.COMPLETED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


class StatsStore:
    """Counts jobs by minute, and stores the counts."""

    def __init__(self, database: Database[Document]) -> None:
        self._stats = database["stats"].with_options(write_concern=WriteConcern(w=1))
        self._jobs = database["jobs"]

    def count(self, begin: datetime, end: datetime) -> list[Rollup]:
        """A rollup of each minute from ``begin`` to ``end``, counted from the jobs."""
        minutes = (end - begin) // MINUTE
        found: dict[datetime, Document] = {begin + n * MINUTE: {} for n in range(minutes)}
        for group in self._jobs.aggregate(_ended(begin, end), hint="ended"):
            _add(found[group["_id"].pop("at")], count=group["jobs"], **group["_id"])
        for group in self._jobs.aggregate(_submitted(begin, end), hint="newest"):
            found[group["_id"]]["submitted"] = group["jobs"]
        return [Rollup(at=at, **values) for at, values in found.items()]

    def save(self, step: timedelta, rollups: Sequence[Rollup]) -> None:
        """Store rollups; those of minutes leave the samples as they were noted."""
        self._stats.bulk_write(
            [UpdateOne(_key(step, r.at), {"$set": _stored(step, r)}, upsert=True) for r in rollups],
            ordered=False,
        )

    def sample(self, at: datetime, sums: Mapping[str, float], most: Mapping[str, int]) -> None:
        """Add a sample to the minute ``at``: ``sums`` are added, of ``most`` the largest stays."""
        update = {
            "$inc": {"samples": 1, **sums},
            "$max": dict(most),
            "$set": {"expireAt": at + _KEPT[MINUTE]},
        }
        self._stats.update_one(_key(MINUTE, at), update, upsert=True)

    def read(self, step: timedelta, begin: datetime, end: datetime) -> list[Rollup]:
        """The stored rollups of this time, in order."""
        found = self._stats.find(_between(step, begin, end)).sort("_id", 1)
        return [_rollup(document) for document in found]

    def counted_until(self, *, not_before: datetime, now: datetime) -> datetime | None:
        """The last minute that was counted; if there is none, the end of the first job to count."""
        counted = {**_between(MINUTE, not_before, now), "completed": {"$exists": True}}
        last = self._stats.find_one(counted, sort=[("_id", -1)])
        if last is not None:
            at: datetime = last["_id"]["at"]
            return at
        job = self._jobs.find_one(
            {"completedAt": {"$gte": not_before}}, {"completedAt": 1}, sort=[("completedAt", 1)]
        )
        return job["completedAt"] if job else None

    def errors(self, since: datetime) -> list[SeenError]:
        """Errors of the newest failed jobs that were created since then, the newest error first."""
        stages: list[Document] = [
            {"$match": {"status": str(JobStatus.FAILED), "createdAt": {"$gte": since}}},
            {"$sort": {"createdAt": -1, "_id": -1}},
            {"$limit": ERRORS_LOOKED_AT},
            {
                "$group": {
                    "_id": "$errorMessage",
                    "jobs": {"$sum": 1},
                    "last": {"$first": "$_id"},
                    "at": {"$first": "$createdAt"},
                }
            },
            {"$sort": {"at": -1}},
        ]
        return [
            SeenError(message=found["_id"] or "", jobs=found["jobs"], last_job_id=found["last"])
            for found in self._jobs.aggregate(stages, hint="newest_by_status")
        ]


def _ended(begin: datetime, end: datetime) -> list[Document]:
    """Reads the index alone, which has all four fields."""
    group = {
        "at": {"$dateTrunc": {"date": "$completedAt", "unit": "minute"}},
        "status": "$status",
        "wait": _bucket("$queuedAt", "$startedAt"),
        "run": _bucket("$startedAt", "$completedAt"),
    }
    return [
        {"$match": {"completedAt": {"$gte": begin, "$lt": end}}},
        {"$project": {"_id": 0, "completedAt": 1, "status": 1, "queuedAt": 1, "startedAt": 1}},
        {"$group": {"_id": group, "jobs": {"$sum": 1}}},
    ]


def _submitted(begin: datetime, end: datetime) -> list[Document]:
    minute = {"$dateTrunc": {"date": "$createdAt", "unit": "minute"}}
    return [
        {"$match": {"createdAt": {"$gte": begin, "$lt": end}}},
        {"$project": {"_id": 0, "createdAt": 1}},
        {"$group": {"_id": minute, "jobs": {"$sum": 1}}},
    ]


def _bucket(begin: str, end: str) -> Document:
    """The same as ``stats.histogram.bucket``; null for a job that never started."""
    lasted = {"$max": [1, {"$subtract": [end, begin]}]}
    counted = {"$toInt": {"$floor": {"$multiply": [BUCKETS, {"$log": [lasted, 2]}]}}}
    return {"$cond": [{"$gt": ["$startedAt", None]}, counted, None]}


def _add(values: Document, *, count: int, status: str, wait: Any = None, run: Any = None) -> None:
    name = _COUNTS[JobStatus(status)]
    values[name] = values.get(name, 0) + count
    for histogram, bucket in (("wait", wait), ("run", run)):
        if bucket is not None:
            buckets = values.setdefault(histogram, {})
            buckets[bucket] = buckets.get(bucket, 0) + count


def _key(step: timedelta, at: datetime) -> Document:
    return {"_id": {"step": step // MINUTE, "at": at}}


def _between(step: timedelta, begin: datetime, end: datetime) -> Document:
    return {"_id": {"$gte": _key(step, begin)["_id"], "$lt": _key(step, end)["_id"]}}


def _stored(step: timedelta, rollup: Rollup) -> Document:
    counted: Document = {
        "submitted": rollup.submitted,
        **{name: getattr(rollup, name) for name in _COUNTS.values()},
        "wait": _flat(rollup.wait),
        "run": _flat(rollup.run),
        "expireAt": rollup.at + _KEPT[step],
    }
    if step == MINUTE:
        return counted
    return counted | {
        "samples": rollup.samples,
        "held": rollup.held,
        "usedCpu": rollup.used_cpu,
        "totalCpu": rollup.total_cpu,
        "queued": rollup.queued,
        "oldestWaitMs": rollup.oldest_wait_ms,
    }


def _flat(histogram: Mapping[int, int]) -> list[int]:
    """Buckets and counts in turn, in one list. Pairs would take several times as long to read, and
    an overview reads many thousands.
    """
    return [number for pair in sorted(histogram.items()) for number in pair]


def _histogram(stored: Sequence[Any]) -> dict[int, int]:
    if stored and isinstance(stored[0], list):
        return dict(stored)  # Pairs, as an earlier version stored them, for at most eight days.
    return dict(zip(stored[::2], stored[1::2], strict=True))


def _rollup(document: Document) -> Rollup:
    return Rollup(
        at=document["_id"]["at"],
        submitted=document.get("submitted", 0),
        **{name: document.get(name, 0) for name in _COUNTS.values()},
        wait=_histogram(document.get("wait", ())),
        run=_histogram(document.get("run", ())),
        samples=document.get("samples", 0),
        held=document.get("held", 0),
        used_cpu=document.get("usedCpu", 0),
        total_cpu=document.get("totalCpu", 0),
        queued=document.get("queued", 0),
        oldest_wait_ms=document.get("oldestWaitMs", 0),
    )
