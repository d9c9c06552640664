"""Late writes of attempts that are over: which they are, and what a job's history says of them.

What was refused has changed nothing; this is how people see that it was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from taskyard.jobs.model import Job, Lease
from taskyard.jobs.states import Verb

#: Refusals that a history holds at once, of the 40 entries it keeps: a rogue agent that invents
#: attempts must not push out how the job came to be where it is.
REFUSALS_KEPT = 10

#: Verbs that end an attempt over its holder's head.
_BY_OTHERS = frozenset({Verb.EXPIRE, Verb.CANCEL})

#: Verbs by which the holder alone sends a job back to the queue; a time-out may be the sweep's.
_BY_HOLDER = frozenset({Verb.FAIL, Verb.RELEASE})


class Write(StrEnum):
    """What an agent may write for an attempt; the label of the counter of refused writes."""

    START = "start"
    HEARTBEAT = "heartbeat"
    OUTPUT = "output"
    RESULT = "result"
    CANCEL = "cancel"
    RELEASE = "release"


def is_late(job: Job, lease: Lease, write: Write) -> bool:
    """Whether the write is of an attempt that is over.

    The holder's own word said again is none (a result whose answer was lost, a heartbeat that
    crossed its result or the word that it gives the job back), but output after the end is lost,
    so it is.
    """
    if not lease.covers(job):
        return write is Write.OUTPUT or not _was_let_go(job, lease)
    return job.is_terminal and (write is Write.OUTPUT or not ended_by_holder(job))


def _was_let_go(job: Job, lease: Lease) -> bool:
    """Whether the attempt ended as its holder told, and the job went on without it."""
    told = [
        line["verb"]
        for line in job.history
        if (line["attempt"], line["worker"]) == (lease.attempt, lease.worker_id)
        and line["verb"] != Verb.REFUSE
    ]
    return bool(told) and told[-1] in _BY_HOLDER


def ended_by_holder(job: Job) -> bool:
    """Whether whoever held the ended job last has ended it, and not the sweep or a person."""
    moves = (line["verb"] for line in reversed(job.history) if line["verb"] != Verb.REFUSE)
    return job.is_terminal and next(moves, None) not in _BY_OTHERS


def entry(job: Job, lease: Lease, write: Write, now: datetime) -> Mapping[str, Any] | None:
    """The line for the history; None when it says so already, or says enough of the kind."""
    told = [line for line in job.history if line["verb"] == Verb.REFUSE]
    line = {
        "at": now,
        "verb": str(Verb.REFUSE),
        "from": str(job.status),
        "to": str(job.status),
        "attempt": _attempt(job, lease),
        "worker": lease.worker_id or None,
        "reason": f"{write} refused: the attempt is over",
    }
    same = ("attempt", "worker", "reason")
    if len(told) >= REFUSALS_KEPT or any(all(t[n] == line[n] for n in same) for t in told):
        return None
    return line


def _attempt(job: Job, lease: Lease) -> int:
    """The attempt that was meant: for who names none, the last that the worker held."""
    if lease.attempt is not None:
        return lease.attempt
    held = [line["attempt"] for line in job.history if line["worker"] == lease.worker_id]
    return int(held[-1]) if held else job.attempts
