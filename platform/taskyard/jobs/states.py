"""The states of a job and the verbs that lead from one to another."""

from __future__ import annotations

from enum import StrEnum


class JobStatus(StrEnum):
    """The state of a job."""

    QUEUED = "QUEUED"
    ASSIGNED = "ASSIGNED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


#: States that a job never leaves.
TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})

#: States in which a worker holds the job under a lease.
HELD = frozenset({JobStatus.ASSIGNED, JobStatus.RUNNING})

#: States of jobs that the scheduler still has to deal with.
LIVE = frozenset({JobStatus.QUEUED}) | HELD


class Verb(StrEnum):
    """What can happen to a job: the same word in store, history and docs."""

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
    REFUSE = "refuse"


_Q, _A, _R = JobStatus.QUEUED, JobStatus.ASSIGNED, JobStatus.RUNNING
_COMPLETED, _FAILED, _CANCELLED = JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED
_UNSUCCESSFUL = frozenset({(_R, _FAILED), (_R, _Q), (_R, _CANCELLED)})
_GIVEN_BACK = frozenset({(_A, _Q)})

#: All steps that there are: verb -> (state before, state after). No write can take another.
#: There is no ASSIGNED job with a cancel request: such a job is cancelled at once.
ROADS: dict[Verb, frozenset[tuple[JobStatus, JobStatus]]] = {
    Verb.ASSIGN: frozenset({(_Q, _A)}),
    Verb.START: frozenset({(_A, _R)}),
    Verb.CLAIM: frozenset({(_Q, _R)}),
    Verb.COMPLETE: frozenset({(_R, _COMPLETED)}),
    Verb.FAIL: _UNSUCCESSFUL,
    Verb.TIME_OUT: _UNSUCCESSFUL,
    Verb.EXPIRE: _UNSUCCESSFUL | _GIVEN_BACK,
    Verb.RELEASE: frozenset({(_R, _Q), (_R, _CANCELLED)}) | _GIVEN_BACK,
    Verb.CANCEL: frozenset({(_Q, _CANCELLED), (_A, _CANCELLED), (_R, _R)}),
    # Only a note in the history: the one thing that is still written on an ended job.
    Verb.REFUSE: frozenset((status, status) for status in JobStatus),
}
