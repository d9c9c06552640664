"""The verbs of a job. Each returns a Transition: a guard, the changes and the history line.

Nothing here reads a clock or writes anything. ``store.jobs`` performs a Transition as one
guarded operation; when its guard no longer matches, the caller has lost the race.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from taskyard.errors import Conflict, StaleAttempt
from taskyard.jobs import retry
from taskyard.jobs.model import POISON_LOSSES, Job, Lease
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import HELD, JobStatus, Verb
from taskyard.jobs.transition import Moment, Outcome, Transition, shortened, step
from taskyard.workers.model import Worker

#: How many of the boots that lost it a job remembers, the newest.
LOST_ON_KEPT = 10

#: History reason of an attempt that was given back because its HTTP agent was not heard of again.
NO_LIFE = "no sign of life since it was handed out"


def assign(
    job: Job, *, worker_id: str, lease_id: str, at: Moment, start_by: datetime
) -> Transition:
    """QUEUED -> ASSIGNED: the scheduler gives the job to a Celery agent."""
    changes = {**_handed_to(worker_id, "celery", lease_id, job, at), "leaseUntil": start_by}
    return step(Verb.ASSIGN, job, JobStatus.ASSIGNED, at, changes)


def start(job: Job, lease: Lease, *, at: Moment, lease_until: datetime) -> Transition:
    """ASSIGNED -> RUNNING: the agent has admitted the job and is about to spawn it.

    Raises StaleAttempt when the job is no longer assigned under this lease.
    """
    if job.status is not JobStatus.ASSIGNED or not lease.covers(job):
        raise StaleAttempt(job.job_id)
    changes = _running(job.attempts, at, lease_until)
    return step(Verb.START, job, JobStatus.RUNNING, at, changes)


def claim(
    job: Job, *, worker: Worker, lease_id: str, at: Moment, lease_until: datetime
) -> Transition:
    """QUEUED -> RUNNING in one write: an agent that asked takes the job."""
    changes = {
        **_handed_to(worker.worker_id, worker.kind, lease_id, job, at),
        "agentBoot": worker.boot,
        **_running(job.attempts + 1, at, lease_until),
    }
    return step(Verb.CLAIM, job, JobStatus.RUNNING, at, changes)


def finish(job: Job, lease: Lease, outcome: Outcome, *, at: Moment) -> Transition:
    """RUNNING -> COMPLETED, FAILED, CANCELLED, or back to QUEUED: the attempt has ended.

    An exit code 0 is COMPLETED even when a cancel was on its way. ``at`` is when the attempt's
    processes ended; if the history has a later entry already, that entry's time is used. Raises
    StaleAttempt when this attempt is over.
    """
    if job.status is not JobStatus.RUNNING or not lease.covers(job):
        raise StaleAttempt(job.job_id)
    if job.history and job.history[-1]["at"] > at.now:
        at = replace(at, now=job.history[-1]["at"])
    if outcome.cause is None:
        changes = {**_left(job, outcome), "exitCode": 0, "losses": 0, "errorMessage": None}
        return _end(Verb.COMPLETE, job, JobStatus.COMPLETED, at, changes, outcome.detail)
    verb = Verb.TIME_OUT if outcome.cause is Cause.TIMEOUT else Verb.FAIL
    return _unsuccessful(verb, job, outcome, at)


def expire(job: Job, *, at: Moment) -> Transition | None:
    """ASSIGNED, RUNNING -> QUEUED, FAILED or CANCELLED: the lease is over.

    None while the lease is live, so a sweep that read too early changes nothing. An attempt
    that never showed life (not started in time, or handed to an HTTP agent that was not heard
    of again) is given back; the third such hand-out of a job counts as a lost worker, since the
    job may be what silences its workers. An HTTP agent that was heard of after the job's timeout
    was not lost: that is a time-out.
    """
    if job.status not in HELD or job.lease_until is None or job.lease_until >= at.now:
        return None
    over = {"leaseUntil": {"$lt": at.now}}
    if job.status is JobStatus.ASSIGNED:
        return _give_back(Verb.EXPIRE, job, at, "not started by its deadline", over)
    if job.agent_kind == "http" and job.last_seen_at is None and not _silences(job):
        return _give_back(Verb.EXPIRE, job, at, NO_LIFE, over)
    if _outlasted(job):
        outcome = Outcome(cause=Cause.TIMEOUT, detail=timed_out(job))
        return _unsuccessful(Verb.TIME_OUT, job, outcome, at, over)
    detail = f"worker {job.assigned_agent_id} was lost: its lease ended"
    outcome = Outcome(cause=Cause.LOST, detail=detail)
    return _unsuccessful(Verb.EXPIRE, job, outcome, at, over)


def release(job: Job, lease: Lease, *, reason: str, at: Moment, told: bool = True) -> Transition:
    """ASSIGNED, RUNNING -> QUEUED: nothing was spawned, so the attempt is given back.

    A worker that was never ``told`` of the attempt may get the job again. Raises StaleAttempt when
    the attempt is over.
    """
    if job.status not in HELD or not lease.covers(job):
        raise StaleAttempt(job.job_id)
    return _give_back(Verb.RELEASE, job, at, reason, told=told)


def cancel(job: Job, *, by: str | None, reason: str | None, at: Moment) -> Transition:
    """QUEUED, ASSIGNED -> CANCELLED at once; RUNNING keeps running with the request set.

    Raises Conflict for a job that has ended.
    """
    if job.is_terminal:
        raise Conflict(f"{job.job_id} has ended ({job.status}); it cannot be cancelled.")
    words = f"cancelled: {reason}" if reason else "cancelled"
    changes: dict[str, Any] = {
        "cancelRequested": True,
        "cancel": {"by": by, "reason": reason, "at": at.now},
    }
    if job.status is JobStatus.RUNNING:
        return step(Verb.CANCEL, job, JobStatus.RUNNING, at, changes, f"to be {words}")
    changes["errorMessage"] = words
    return _end(Verb.CANCEL, job, JobStatus.CANCELLED, at, changes, words)


def timed_out(job: Job) -> str:
    """The message about a job that took longer than its timeout."""
    return f"timed out after {job.timeout_ms / 1000:g} s"


def _silences(job: Job) -> bool:
    """Whether this hand-out is the third (``POISON_LOSSES``) that was followed by silence."""
    silent = [entry for entry in job.history if entry["reason"] == NO_LIFE]
    return len(silent) + 1 >= POISON_LOSSES


def _outlasted(job: Job) -> bool:
    """Whether its HTTP agent was heard of after the job's timeout, but had not ended the job."""
    if job.agent_kind != "http" or job.last_seen_at is None or job.started_at is None:
        return False
    return job.last_seen_at >= job.started_at + timedelta(milliseconds=job.timeout_ms)


def _handed_to(worker_id: str, kind: str, lease_id: str, job: Job, at: Moment) -> dict[str, Any]:
    return {
        "assignedAgentId": worker_id,
        "agentKind": kind,
        "attempts": job.attempts + 1,
        "leaseId": lease_id,
        "assignedAt": at.now,
    }


def _running(attempt: int, at: Moment, lease_until: datetime) -> dict[str, Any]:
    """The fields that every start of an attempt sets; its output begins anew."""
    return {
        "startedAt": at.now,
        "leaseUntil": lease_until,
        "outputAttempt": attempt,
        "outputBytes": 0,
        "outputSeq": 0,
        "outputTruncated": False,
        "outputGeneration": "live",
    }


def _left(job: Job, outcome: Outcome) -> dict[str, Any]:
    """The fields of what this attempt left, in place of those of an earlier attempt."""
    earlier: dict[str, Any] = {}
    if job.result_file_id or job.result_truncated:
        earlier = {"resultFileId": None, "resultFilename": None, "resultTruncated": False}
    return {**earlier, **outcome.fields}


def _unsuccessful(
    verb: Verb,
    job: Job,
    outcome: Outcome,
    at: Moment,
    guard: Mapping[str, Any] | None = None,
) -> Transition:
    """End an attempt without success: CANCELLED if that was requested, else QUEUED or FAILED."""
    assert outcome.cause is not None
    detail = shortened(outcome.detail)
    decision = retry.decide(job, outcome.cause, detail)
    changes = {
        **_left(job, outcome),
        "losses": job.losses + 1 if outcome.cause is Cause.LOST else 0,
        "errorMessage": decision.reason,
    }
    if decision.again and not job.cancel_requested:
        return _requeue(verb, job, at, changes | _lost_on(job), decision.reason, guard)
    # Not before: a job that is tried again has no exit code yet.
    changes["exitCode"] = outcome.exit_code
    if not job.cancel_requested:
        return _end(verb, job, JobStatus.FAILED, at, changes, decision.reason, guard)
    words = f"cancelled ({detail})"
    changes |= {"cancel": {**(job.cancel or {}), "signal": outcome.signal}}
    changes["errorMessage"] = words
    return _end(verb, job, JobStatus.CANCELLED, at, changes, words, guard)


def _give_back(
    verb: Verb,
    job: Job,
    at: Moment,
    reason: str,
    guard: Mapping[str, Any] | None = None,
    *,
    told: bool = True,
) -> Transition:
    """Back to the queue as if this attempt had not been; CANCELLED if that was requested."""
    changes = {"attempts": job.attempts - 1, **(_lost_on(job) if told else {})}
    if job.cancel_requested:
        words = f"cancelled ({reason})"
        changes["errorMessage"] = words
        return _end(verb, job, JobStatus.CANCELLED, at, changes, words, guard)
    return _requeue(verb, job, at, changes, reason, guard)


def _lost_on(job: Job) -> dict[str, Any]:
    boot = job.agent_boot
    return {"lostOn": [*job.lost_on, boot][-LOST_ON_KEPT:]} if boot else {}


def _requeue(
    verb: Verb,
    job: Job,
    at: Moment,
    changes: Mapping[str, Any],
    reason: str,
    guard: Mapping[str, Any] | None,
) -> Transition:
    changes = {**changes, "queuedAt": at.now}
    cleared = (
        *("assignedAgentId", "agentKind", "agentBoot", "leaseId", "leaseUntil"),
        *("lastSeenAt", "assignedAt", "startedAt"),
    )
    return step(verb, job, JobStatus.QUEUED, at, changes, reason, guard, cleared)


def _end(
    verb: Verb,
    job: Job,
    to: JobStatus,
    at: Moment,
    changes: Mapping[str, Any],
    reason: str,
    guard: Mapping[str, Any] | None = None,
) -> Transition:
    changes = {**changes, "completedAt": at.now, "expireAt": at.now + at.keep}
    return step(verb, job, to, at, changes, reason, guard, ("leaseUntil", "lastSeenAt"))
