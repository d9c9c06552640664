"""Searches as queries of MongoDB: one part is answered by an index, and the rest is checked job by
job, for a bounded number of jobs.

The query names its index. For a search that finds little, the server would try its candidates on
up to a third of the collection before it chose one itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from taskyard.jobs.search import NUMBER, Comparison, Condition, Field, Search
from taskyard.jobs.states import JobStatus

Document = dict[str, Any]

#: How many jobs one page looks at for the part that no index answers. The next page looks further.
LOOKED_AT = 5_000

NEWEST_FIRST = {"createdAt": -1, "_id": -1}

_STORED = {
    Field.STATUS: "status",
    Field.WORKER: "assignedAgentId",
    Field.LABEL: "labels",
    Field.ID: "_id",
    Field.BY: "submittedBy",
    Field.RETRY_OF: "retryOf",
    Field.COMMAND: "command",
    Field.FILE: "filename",
    Field.ERROR: "errorMessage",
    Field.EXIT: "exitCode",
    Field.ATTEMPTS: "attempts",
    Field.PRIORITY: "priority",
    Field.CREATED: "createdAt",
    Field.QUEUED: "queuedAt",
    Field.STARTED: "startedAt",
    Field.ENDED: "completedAt",
}

#: The fields that have an index, newest job first; the most selective field comes first.
_INDEXES = {
    Field.ID: "_id_",
    Field.WORKER: "newest_by_worker",
    Field.LABEL: "newest_by_label",
    Field.STATUS: "newest_by_status",
}

_OPERATORS = {
    Comparison.ABOVE: "$gt",
    Comparison.FROM: "$gte",
    Comparison.BELOW: "$lt",
    Comparison.UNTIL: "$lte",
}
_OPPOSITES = {
    Comparison.ABOVE: Comparison.UNTIL,
    Comparison.FROM: Comparison.BELOW,
    Comparison.BELOW: Comparison.FROM,
    Comparison.UNTIL: Comparison.ABOVE,
}

_PARTS = frozenset({Field.COMMAND, Field.FILE, Field.ERROR})


@dataclass(frozen=True, kw_only=True)
class Position:
    """The last job of a page: the next page begins behind it."""

    created_at: datetime
    job_id: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a search is run."""

    index: str
    #: The conditions that the index answers.
    bounds: Sequence[Document] = field(default_factory=list)
    #: The conditions that are checked on each job that the index gives.
    rest: Sequence[Document] = field(default_factory=list)

    @property
    def within(self) -> Document:
        """The filter that the index answers."""
        return {"$and": list(self.bounds)} if self.bounds else {}

    @property
    def is_bounded(self) -> bool:
        """Whether a page looks at a bounded number of jobs, so that the next may have to go on."""
        return bool(self.rest) and self.index != _INDEXES[Field.ID]

    def above(self, position: Position) -> Plan:
        """The same plan for the jobs down to the position, and none behind it."""
        behind = {"createdAt": position.created_at, "_id": {"$lt": position.job_id}}
        above: list[Document] = [
            {"createdAt": {"$gte": position.created_at}},
            {"$nor": [behind]},
        ]
        return replace(self, bounds=[*self.bounds, *above])

    def stages(self) -> list[Document]:
        """The pipeline that finds the jobs, newest first."""
        return [*self._ordered(), *self._filtered()]

    def looked_at(self, look_at: int | None = None) -> list[Document]:
        """The same pipeline over the newest ``look_at`` jobs that the index gives."""
        return [*self._ordered(), {"$limit": look_at or LOOKED_AT}, *self._filtered()]

    def _ordered(self) -> list[Document]:
        return [{"$match": self.within}, {"$sort": NEWEST_FIRST}]

    def _filtered(self) -> list[Document]:
        return [{"$match": {"$and": list(self.rest)}}] if self.rest else []


def plan(search: Search, *, after: Position | None = None) -> Plan:
    """Choose the index that serves the search best, and the conditions that it leaves to check."""
    conditions = [c for c in search.conditions if c.field is not Field.STATUS]
    statuses = search.statuses
    if len(statuses) < len(JobStatus):
        values = tuple(str(status) for status in JobStatus if status in statuses)
        conditions.append(Condition(field=Field.STATUS, values=values))
    leading = min(
        (c for c in conditions if c.field in _INDEXES and not c.negated),
        key=lambda condition: list(_INDEXES).index(condition.field),
        default=None,
    )
    bounds = [_filter(c) for c in conditions if c is leading or c.field is Field.CREATED]
    return Plan(
        index=_INDEXES[leading.field] if leading else "newest",
        bounds=[*bounds, *_behind(after)],
        rest=[_filter(c) for c in conditions if c is not leading and c.field is not Field.CREATED],
    )


def _behind(after: Position | None) -> list[Document]:
    """Matches the jobs behind the position, written so that the index has one way to read them."""
    if after is None:
        return []
    same = {"createdAt": after.created_at, "_id": {"$gte": after.job_id}}
    return [{"createdAt": {"$lte": after.created_at}}, {"$nor": [same]}]


def _filter(condition: Condition) -> Document:
    if condition.field is Field.CREATED and condition.negated:
        # Every job has ``createdAt``, so the negation is a range of the index as well.
        return {"createdAt": {_OPERATORS[_OPPOSITES[condition.comparison]]: condition.values[0]}}
    found = _positive(condition)
    return {"$nor": [found]} if condition.negated else found


def _positive(condition: Condition) -> Document:
    name, values = condition.field, list(condition.values)
    if name is Field.TEXT:
        return {"$or": [_part(stored, values[0]) for stored in ("command", "filename", "_id")]}
    if name in _PARTS:
        return {
            "$or": [_part(_STORED[name], value, number=name is Field.ERROR) for value in values]
        }
    if name in _SPANS:
        return _span(_SPANS[name], _OPERATORS[condition.comparison], values[0])
    if condition.comparison is Comparison.IS:
        return {_STORED[name]: {"$in": values}}
    return {_STORED[name]: {_OPERATORS[condition.comparison]: values[0]}}


#: Matches a ``#``, or a number that the overview shows as one: in lower case and whole. The group
#: is atomic: with parts of numbers to try, MongoDB would look at one job for seconds.
_NUMBER = f"(?>#|(?-i:{NUMBER}))"


def _part(stored: str, value: Any, *, number: bool = False) -> Document:
    """Matches the literal text, ignoring case; a caller can never pass a pattern."""
    pattern = re.escape(str(value))
    if number:
        pattern = pattern.replace(re.escape("#"), _NUMBER)
    return {stored: {"$regex": pattern, "$options": "i"}}


#: Where each span begins, and its possible ends: the first that the job has, or else now.
_SPANS: Mapping[Field, tuple[str, Sequence[str]]] = {
    Field.WAIT: ("queuedAt", ["$startedAt", "$completedAt", "$$NOW"]),
    Field.RUN: ("startedAt", ["$completedAt", "$$NOW"]),
}


def _span(span: tuple[str, Sequence[str]], operator: str, milliseconds: Any) -> Document:
    begin, ends = span
    lasted = {"$subtract": [{"$ifNull": list(ends)}, f"${begin}"]}
    return {begin: {"$exists": True}, "$expr": {operator: [lasted, milliseconds]}}
