"""Reads of the jobs collection for people: pages, counts, and look-ups; and for retention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from taskyard.documents import to_record
from taskyard.jobs.model import Job
from taskyard.jobs.search import Field, Search
from taskyard.jobs.states import JobStatus
from taskyard.store.searches import LOOKED_AT, NEWEST_FIRST, Plan, Position, plan

#: Lists leave out the fields that only a job's own page shows.
LISTED = {"history": 0, "env": 0, "smallOutput": 0}

#: How far the jobs of one state are counted; beyond it there are "more".
COUNTED = 10_000

#: The same bound for metrics and statistics, and for the count before an action on all jobs that
#: match.
COUNTED_FIRST = 100_000


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of jobs, newest first, and where the next page begins."""

    jobs: Sequence[Job] = field(default_factory=list)
    next: Position | None = None
    #: When the last job that this page looked at was created. Set when the page is short because it
    #: has looked at as many jobs as one page may; the next page looks further.
    looked_back_to: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many jobs match, by state; at least so many where not all jobs were looked at."""

    counts: Mapping[str, int] = field(default_factory=dict)
    #: States that may have more jobs than were counted.
    more: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        """The jobs of all states."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many jobs match; with ``more`` there may be others, as not all were looked at."""

    jobs: int
    more: bool


class JobQueries:
    """Queries of jobs; each is bounded and has an index."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._jobs = database["jobs"]

    def page(self, search: Search, *, limit: int, after: Position | None = None) -> Page:
        """One page of jobs, newest first."""
        chosen = plan(search, after=after)
        # The position where this page's look ends is read first: so the next page begins exactly
        # behind it, whichever jobs come or go meanwhile.
        reached = self._reached(chosen) if chosen.is_bounded else None
        if reached:
            chosen = chosen.above(reached)
        stages = [*chosen.stages(), {"$limit": limit + 1}, {"$project": LISTED}]
        found = self._jobs.aggregate(stages, hint=chosen.index)
        jobs = [to_record(Job, document) for document in found]
        if len(jobs) > limit:
            last = jobs[limit - 1]
            position = Position(created_at=last.created_at, job_id=last.job_id)
            return Page(jobs=jobs[:limit], next=position)
        back_to = reached.created_at if reached else None
        return Page(jobs=jobs, next=reached, looked_back_to=back_to)

    def tally(self, search: Search) -> Tally:
        """How many jobs of each state match.

        A search for states alone is counted by an index, up to ``COUNTED`` for each state. For any
        other search as many of the newest jobs are looked at as for a page.
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
            str(status): count_in_state(self._jobs, status, COUNTED + 1) if status in wanted else 0
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

    def results_of(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """The jobs among these that exist, by id, without history and environment."""
        wanted = {"_id": {"$in": list(job_ids)}}
        found = self._jobs.find(wanted, {"history": 0, "env": 0})
        return {document["_id"]: to_record(Job, document) for document in found}

    def _reached(self, chosen: Plan, look_at: int | None = None) -> Position | None:
        """The last job that a bounded look includes; None when it includes all that there are."""
        last = (look_at or LOOKED_AT) - 1
        ordered = self._jobs.find(chosen.within, {"createdAt": 1}).hint(chosen.index)
        behind = ordered.sort(list(NEWEST_FIRST.items())).skip(last).limit(2)
        found = list(behind)
        if len(found) < 2:
            return None
        return Position(created_at=found[0]["createdAt"], job_id=found[0]["_id"])

    def expired(self, now: datetime, *, limit: int) -> list[Job]:
        """Ended jobs that need not be kept any longer."""
        found = self._jobs.find({"expireAt": {"$lt": now}}, LISTED).limit(limit)
        return [to_record(Job, document) for document in found]

    def used_files(self, file_ids: Sequence[str]) -> set[str]:
        """The files among these that a job names, as its input or as its result."""
        return self.inputs_among(file_ids) | self._named("resultFileId", file_ids)

    def inputs_among(self, file_ids: Sequence[str]) -> set[str]:
        """The files among these that a job has as its input."""
        return self._named("fileId", file_ids)

    def retries_of(self, job_id: str, *, limit: int) -> list[Job]:
        """The jobs that are retries of this one, the oldest first."""
        found = self._jobs.find({"retryOf": job_id}, LISTED).sort("_id").limit(limit)
        return [to_record(Job, document) for document in found]

    def _named(self, name: str, file_ids: Sequence[str]) -> set[str]:
        if not file_ids:
            return set()
        return set(self._jobs.distinct(name, {name: {"$in": list(file_ids)}}))


def count_in_state(jobs: Collection[dict[str, Any]], status: JobStatus, at_most: int) -> int:
    """How many jobs are in a state, counted up to ``at_most``.

    MongoDB's own ``count`` reads index keys alone. The driver counts by an aggregation, which makes
    a document of each job and takes two to three times as long.
    """
    answer = jobs.database.command(
        "count",
        jobs.name,
        query={"status": str(status)},
        limit=at_most,
        hint="newest_by_status",
    )
    return int(answer["n"])
