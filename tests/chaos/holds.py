"""A job's history as holds: which attempt was RUNNING on which worker, from when to when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taskyard.jobs.states import JobStatus, Verb

Entry = Mapping[str, Any]

#: The verb of a history entry for a refused late write; such an entry is no transition.
REFUSE = "refuse"

_BEGIN = {Verb.START, Verb.CLAIM}


@dataclass(frozen=True, kw_only=True)
class Hold:
    """One attempt under one lease. Times are in seconds; ``ended`` None means still held."""

    attempt: int
    worker: str
    began: float
    ended: float | None = None
    #: The verb that ended it.
    by: str | None = None
    #: When its cancel was requested, if it was.
    asked: float | None = None

    def __str__(self) -> str:
        end = "now" if self.ended is None else f"{self.ended:.3f} ({self.by})"
        return f"attempt {self.attempt} on {self.worker}, held from {self.began:.3f} to {end}"


def steps(document: Mapping[str, Any]) -> list[Entry]:
    """Return the transitions in a job's history."""
    return [entry for entry in document.get("history", ()) if entry["verb"] != REFUSE]


def holds(entries: Sequence[Entry]) -> list[Hold]:
    """Return a job's holds in order."""
    return list(_holds(entries))


def _holds(entries: Sequence[Entry]) -> Iterator[Hold]:
    open_: Hold | None = None
    for entry in entries:
        at = entry["at"].timestamp()
        if open_ is not None and entry["to"] != JobStatus.RUNNING:
            yield replace(open_, ended=at, by=entry["verb"])
            open_ = None
        if entry["verb"] in _BEGIN:
            open_ = Hold(attempt=entry["attempt"], worker=entry["worker"], began=at)
        elif open_ is not None and entry["verb"] == Verb.CANCEL:
            open_ = replace(open_, asked=at)
    if open_ is not None:
        yield open_
