"""Searches as values: ``jobs.search_terms`` parses them, the store makes queries of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from taskyard.jobs.states import JobStatus

#: A number, for which ``#`` stands in ``error:``, so that "exit code 1" and "exit code 2" are one
#: error; a full stop at the end of a sentence is not part of it.
NUMBER = r"[0-9][0-9a-f]*(?:\.[0-9a-f]+)*"


class Field(StrEnum):
    """The fields that a term may be about, as they are written."""

    STATUS = "status"
    WORKER = "worker"
    LABEL = "label"
    ID = "id"
    BY = "by"
    RETRY_OF = "retryof"
    COMMAND = "command"
    FILE = "file"
    ERROR = "error"
    EXIT = "exit"
    ATTEMPTS = "attempts"
    PRIORITY = "priority"
    CREATED = "created"
    QUEUED = "queued"
    STARTED = "started"
    ENDED = "ended"
    WAIT = "wait"
    RUN = "run"
    #: A bare word: part of the command, of the file's name or of the id.
    TEXT = "text"


class Comparison(StrEnum):
    """The comparisons of a term, as they are written."""

    IS = ":"
    ABOVE = ">"
    FROM = ">="
    BELOW = "<"
    UNTIL = "<="


#: Durations are milliseconds.
Value = str | int | datetime


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One term: the field is (not) any of the values, or (not) above or below the one."""

    field: Field
    values: tuple[Value, ...]
    comparison: Comparison = Comparison.IS
    negated: bool = False


@dataclass(frozen=True, kw_only=True)
class Search:
    """Finds the jobs for which all conditions hold; without conditions, every job."""

    conditions: tuple[Condition, ...] = ()

    def __and__(self, other: Search) -> Search:
        """The search for jobs that both find."""
        return Search(conditions=self.conditions + other.conditions)

    @property
    def statuses(self) -> frozenset[JobStatus]:
        """The states of jobs that it may find."""
        possible = frozenset(JobStatus)
        for condition in self.conditions:
            if condition.field is Field.STATUS:
                named = frozenset(JobStatus(str(value)) for value in condition.values)
                possible = possible - named if condition.negated else possible & named
        return possible


EVERYTHING = Search()


def in_states(statuses: Iterable[JobStatus]) -> Search:
    """Jobs in one of these states."""
    return equal(Field.STATUS, *(str(status) for status in statuses))


def created(comparison: Comparison, at: datetime) -> Search:
    """Jobs that were created before or after an instant."""
    return Search(conditions=(Condition(field=Field.CREATED, values=(at,), comparison=comparison),))


def equal(name: Field, *values: str) -> Search:
    """Jobs whose field has one of these values."""
    return Search(conditions=(Condition(field=name, values=values),))
