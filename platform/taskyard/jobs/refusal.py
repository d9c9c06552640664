"""Late writes, by attempts that are over: which writes are late, and how a job's history notes one.

A refused write has changed nothing; the note lets people see that it was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from taskyard.jobs.model import Job, Lease
from taskyard.jobs.states import Verb

#: How many refusals a history may hold, of the 40 entries that it keeps: a rogue agent that invents
#: attempts must not push out the job's own steps.
REFUSALS_KEPT = 10

#: Verbs by which somebody other than its holder ends an attempt.
_BY_OTHERS = frozenset({Verb.EXPIRE, Verb.CANCEL})

#: Verbs by which only the holder sends a job back to the queue; TIME_OUT may be the sweep's too.
_BY_HOLDER = frozenset({Verb.FAIL, Verb.RELEASE})


class Write(StrEnum):
    """What an agent writes for an attempt: the labels of the counter of refused writes."""

    START = "start"
    HEARTBEAT = "heartbeat"
    OUTPUT = "output"
    RESULT = "result"
    CANCEL = "cancel"
    RELEASE = "release"


def is_late(job: Job, lease: Lease, write: Write) -> bool:
    """Whether the write is late: by an attempt that is over.

    What the holder repeats is not late: a result whose answer was lost, or a heartbeat that crossed
    its own result or release. But output after the end is, because it is lost.
    """
    if not lease.covers(job):
        return write is Write.OUTPUT or not _was_let_go(job, lease)
    return job.is_terminal and (write is Write.OUTPUT or not ended_by_holder(job))


def _was_let_go(job: Job, lease: Lease) -> bool:
    """Whether the holder itself ended this attempt by sending the job back to the queue."""
    told = [
        line["verb"]
        for line in job.history
        if (line["attempt"], line["worker"]) == (lease.attempt, lease.worker_id)
        and line["verb"] != Verb.REFUSE
    ]
    return bool(told) and told[-1] in _BY_HOLDER


def ended_by_holder(job: Job) -> bool:
    """Whether the job was ended by its last holder, not by the sweep or a person's cancel.

    HTTP agents report no time-out: the sweep finds theirs.
    """
    moves = (line["verb"] for line in reversed(job.history) if line["verb"] != Verb.REFUSE)
    verb = next(moves, None)
    by_sweep = verb == Verb.TIME_OUT and job.agent_kind == "http"
    return job.is_terminal and verb not in _BY_OTHERS and not by_sweep


def entry(job: Job, lease: Lease, write: Write, now: datetime) -> Mapping[str, Any] | None:
    """The history line about a refusal; None if it is there, or ``REFUSALS_KEPT`` lines are."""
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
    """The attempt that the write is for; if the lease names none, the last that the worker held."""
    if lease.attempt is not None:
        return lease.attempt
    held = [line["attempt"] for line in job.history if line["worker"] == lease.worker_id]
    return int(held[-1]) if held else job.attempts
