"""The states of a job and the verbs that lead from one to another."""

from __future__ import annotations

from enum import StrEnum


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "QUEUED"
    ASSIGNED = "ASSIGNED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


#: States from which nothing follows.
TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})

#: States in which a worker holds the job under a lease.
HELD = frozenset({JobStatus.ASSIGNED, JobStatus.RUNNING})

#: States that the scheduler still has to do with.
LIVE = frozenset({JobStatus.QUEUED}) | HELD


class Verb(StrEnum):
    """What can happen to a job; the same word in store, events, history and docs."""

    SUBMIT = "submit"
    ASSIGN = "assign"
    START = "start"
    CLAIM = "claim"
    COMPLETE = "complete"
    FAIL = "fail"
    TIME_OUT = "time_out"
    EXPIRE = "expire"
    RELEASE = "release"
    CANCEL = "cancel"


#: Every road there is: ``verb -> (states it may start from, states it may end in)``.
ROADS: dict[Verb, tuple[frozenset[JobStatus], frozenset[JobStatus]]] = {
    Verb.ASSIGN: (frozenset({JobStatus.QUEUED}), frozenset({JobStatus.ASSIGNED})),
    Verb.START: (frozenset({JobStatus.ASSIGNED}), frozenset({JobStatus.RUNNING})),
    Verb.CLAIM: (frozenset({JobStatus.QUEUED}), frozenset({JobStatus.RUNNING})),
    Verb.COMPLETE: (frozenset({JobStatus.RUNNING}), frozenset({JobStatus.COMPLETED})),
    Verb.FAIL: (
        frozenset({JobStatus.RUNNING}),
        frozenset({JobStatus.FAILED, JobStatus.QUEUED, JobStatus.CANCELLED}),
    ),
    Verb.TIME_OUT: (
        frozenset({JobStatus.RUNNING}),
        frozenset({JobStatus.FAILED, JobStatus.QUEUED, JobStatus.CANCELLED}),
    ),
    Verb.EXPIRE: (
        HELD,
        frozenset({JobStatus.FAILED, JobStatus.QUEUED, JobStatus.CANCELLED}),
    ),
    Verb.RELEASE: (HELD, frozenset({JobStatus.QUEUED, JobStatus.CANCELLED})),
    Verb.CANCEL: (LIVE, frozenset({JobStatus.CANCELLED, JobStatus.RUNNING})),
}
