"""Each verb from each state: its changes and their guard, or its refusal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from taskyard.errors import Conflict, StaleAttempt
from taskyard.jobs import lifecycle
from taskyard.jobs.model import POISON_LOSSES, Job, Lease, lease_of
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import ROADS, JobStatus, Verb
from taskyard.jobs.transition import DETAIL_CHARACTERS, Moment, Outcome, Transition
from tests.factories import LEASE, NOW, after, job_in, queued_job, running_job, worker

LATER = Moment(now=NOW + timedelta(seconds=5), keep=timedelta(days=30))
MUCH_LATER = Moment(now=NOW + timedelta(hours=1), keep=timedelta(days=30))
EXIT = Outcome(cause=Cause.EXIT, detail="exit code 1", exit_code=1)


def _assign(job: Job) -> Transition:
    return lifecycle.assign(
        job, worker_id="w1", lease_id="l9", at=LATER, start_by=LATER.now + LEASE
    )


def _claim(job: Job) -> Transition:
    return lifecycle.claim(
        job,
        worker=worker("w1", kind="http"),
        lease_id="l9",
        at=LATER,
        lease_until=LATER.now + LEASE,
    )


ACTS: dict[str, Callable[[Job], Transition | None]] = {
    "assign": _assign,
    "claim": _claim,
    "start": lambda j: lifecycle.start(j, lease_of(j), at=LATER, lease_until=LATER.now + LEASE),
    "complete": lambda j: lifecycle.finish(j, lease_of(j), Outcome(), at=LATER),
    "fail": lambda j: lifecycle.finish(j, lease_of(j), EXIT, at=LATER),
    "expire": lambda j: lifecycle.expire(j, at=MUCH_LATER),
    "release": lambda j: lifecycle.release(j, lease_of(j), reason="drain", at=LATER),
    "cancel": lambda j: lifecycle.cancel(j, by="op", reason=None, at=LATER),
}

#: verb -> state it starts from -> state it ends in; every other pair is refused.
TABLE: dict[str, dict[str, str]] = {
    "assign": {"QUEUED": "ASSIGNED"},
    "claim": {"QUEUED": "RUNNING"},
    "start": {"ASSIGNED": "RUNNING"},
    "complete": {"RUNNING": "COMPLETED"},
    "fail": {"RUNNING": "FAILED"},
    "expire": {"ASSIGNED": "QUEUED", "RUNNING": "QUEUED"},
    "release": {"ASSIGNED": "QUEUED", "RUNNING": "QUEUED"},
    "cancel": {"QUEUED": "CANCELLED", "ASSIGNED": "CANCELLED", "RUNNING": "RUNNING"},
}


@pytest.mark.parametrize("verb", ACTS)
@pytest.mark.parametrize("status", JobStatus)
def test_a_verb_leads_where_the_table_says_or_is_refused(verb: str, status: JobStatus) -> None:
    job = job_in(status)
    expected = TABLE[verb].get(str(status))
    if expected is None:
        with contextlib.suppress(Conflict, StaleAttempt):
            assert ACTS[verb](job) is None
        return
    transition = ACTS[verb](job)
    assert transition is not None
    moved = after(job, transition)
    assert (transition.verb, moved.status) == (Verb(verb), JobStatus(expected))
    assert (status, JobStatus(expected)) in ROADS[Verb(verb)]
    entry = moved.history[-1]
    assert (entry["verb"], entry["from"], entry["to"]) == (verb, status, expected)


@pytest.mark.parametrize("verb", ACTS)
def test_a_write_is_guarded_by_state_attempt_lease_and_cancel_request(verb: str) -> None:
    for status in TABLE[verb]:
        job = job_in(JobStatus(status))
        transition = ACTS[verb](job)
        assert transition is not None
        guard = {name: transition.guard[name] for name in ("status", "attempts", "leaseId")}
        assert guard == {"status": status, "attempts": job.attempts, "leaseId": job.lease_id}
        assert transition.guard["cancelRequested"] is job.cancel_requested


@pytest.mark.parametrize(
    ("changes", "covers"),
    [
        ({}, True),
        ({"attempt": None, "lease_id": None}, True),
        ({"worker_id": "w2"}, False),
        ({"attempt": 2}, False),
        ({"lease_id": "other"}, False),
    ],
)
def test_a_lease_covers_its_own_attempt_alone(changes: dict[str, Any], covers: bool) -> None:
    job = running_job()
    lease: Lease = replace(lease_of(job), **changes)
    assert lease.covers(job) is covers


@pytest.mark.parametrize(
    ("outcome", "fields", "status", "words"),
    [
        (EXIT, {}, "FAILED", "exit code 1"),
        (EXIT, {"retry_on_exit": True}, "QUEUED", "exit code 1"),
        (EXIT, {"retry_on_exit": True, "max_retries": 0}, "FAILED", "no retries left"),
        (Outcome(cause=Cause.AGENT, detail="no disk"), {}, "QUEUED", "no disk"),
        (Outcome(cause=Cause.TIMEOUT, detail="timed out"), {}, "QUEUED", "timed out"),
        (Outcome(cause=Cause.TIMEOUT, detail="t"), {"max_retries": 0}, "FAILED", "no retries"),
        (Outcome(cause=Cause.STOPPED, detail="stopped"), {}, "QUEUED", "stopped"),
    ],
)
def test_the_cause_of_a_failure_decides_whether_it_is_tried_again(
    outcome: Outcome, fields: dict[str, Any], status: str, words: str
) -> None:
    job = running_job(**fields)
    ended = after(job, lifecycle.finish(job, lease_of(job), outcome, at=LATER))
    assert ended.status == status
    assert words in (ended.error_message or "")
    assert (ended.completed_at is None) == (status == "QUEUED")
    assert ended.exit_code == (None if status == "QUEUED" else outcome.exit_code)


@pytest.mark.parametrize(
    ("second", "status"),
    [(Outcome(), "COMPLETED"), (EXIT, "FAILED"), (Outcome(cause=Cause.LOST, detail="l"), "FAILED")],
)
def test_a_result_is_of_the_last_attempt_alone(second: Outcome, status: str) -> None:
    left = {"resultFileId": "f1", "resultFilename": "first.zip", "resultTruncated": True}
    job = running_job(max_retries=1, retry_on_exit=True)
    job = after(job, lifecycle.finish(job, lease_of(job), replace(EXIT, fields=left), at=LATER))
    assert (job.status, job.result_file_id, job.result_truncated) == ("QUEUED", "f1", True)
    job = after(job, _claim(job))
    ended = after(job, lifecycle.finish(job, lease_of(job), second, at=LATER))
    assert ended.status == status
    assert (ended.result_file_id, ended.result_filename) == (None, None)
    assert not ended.result_truncated


def test_a_result_that_was_not_kept_replaces_the_one_before() -> None:
    left = {"resultFileId": "f1", "resultFilename": "first.zip", "resultTruncated": False}
    job = running_job(retry_on_exit=True)
    job = after(job, lifecycle.finish(job, lease_of(job), replace(EXIT, fields=left), at=LATER))
    job = after(job, _claim(job))
    unkept = Outcome(fields={"resultTruncated": True})
    ended = after(job, lifecycle.finish(job, lease_of(job), unkept, at=LATER))
    assert (ended.result_file_id, ended.result_truncated) == (None, True)


@pytest.mark.parametrize("outcome", [EXIT, Outcome(cause=Cause.TIMEOUT, detail="timed out")])
def test_a_job_that_was_asked_to_cancel_ends_cancelled(outcome: Outcome) -> None:
    job = running_job()
    asked = after(job, lifecycle.cancel(job, by="op", reason="enough", at=LATER))
    ended = after(asked, lifecycle.finish(asked, lease_of(asked), outcome, at=LATER))
    assert ended.status == "CANCELLED"


def test_a_job_that_was_given_back_as_it_was_cancelled_says_so() -> None:
    asked = running_job(cancel_requested=True)
    back = lifecycle.release(asked, lease_of(asked), reason="stopped on request", at=LATER)
    ended = after(asked, back)
    assert (ended.status, ended.error_message) == ("CANCELLED", "cancelled (stopped on request)")


@pytest.mark.parametrize("cancel_requested", [False, True])
def test_what_is_kept_of_an_error_is_bounded(cancel_requested: bool) -> None:
    job = running_job(cancel_requested=cancel_requested)
    outcome = Outcome(cause=Cause.EXIT, detail="x" * 100_000)
    ended = after(job, lifecycle.finish(job, lease_of(job), outcome, at=LATER))
    for kept in (ended.error_message, ended.history[-1]["reason"]):
        assert len(kept or "") < DETAIL_CHARACTERS + 50


def test_a_job_that_succeeds_in_spite_of_a_cancel_is_completed() -> None:
    job = running_job()
    asked = after(job, lifecycle.cancel(job, by="op", reason=None, at=LATER))
    assert lifecycle.finish(asked, lease_of(asked), Outcome(), at=LATER).to == "COMPLETED"


def test_a_live_lease_never_expires() -> None:
    job = running_job()
    assert job.lease_until is not None
    assert lifecycle.expire(job, at=Moment(now=job.lease_until)) is None


def test_an_end_that_is_told_late_is_when_it_was_and_not_before_what_was_written_meanwhile() -> (
    None
):
    job = running_job()
    assert lifecycle.finish(job, lease_of(job), EXIT, at=LATER).entry["at"] == LATER.now
    asked = after(job, lifecycle.cancel(job, by="op", reason=None, at=MUCH_LATER))
    ended = lifecycle.finish(asked, lease_of(asked), EXIT, at=LATER)
    assert ended.entry["at"] == ended.changes["completedAt"] == MUCH_LATER.now


def _silent_again(job: Job) -> Job:
    handed = after(job, _claim(job))
    back = lifecycle.expire(handed, at=MUCH_LATER)
    assert back is not None
    return after(handed, back)


def test_the_third_worker_that_a_job_silences_is_a_lost_one() -> None:
    job = queued_job(max_retries=0)
    for _ in range(POISON_LOSSES - 1):
        job = _silent_again(job)
        assert (job.status, job.attempts, job.losses) == ("QUEUED", 0, 0)
    job = _silent_again(job)
    assert (job.status, job.attempts, job.losses) == ("FAILED", 1, 1)


@pytest.mark.parametrize(
    ("seen_after_s", "verb", "words"), [(59, "expire", "was lost"), (60, "time_out", "after 60 s")]
)
def test_an_http_worker_that_was_heard_of_after_the_timeout_was_not_lost(
    seen_after_s: int, verb: str, words: str
) -> None:
    job = running_job(kind="http", timeout_ms=60_000)
    assert job.started_at is not None
    job = replace(job, last_seen_at=job.started_at + timedelta(seconds=seen_after_s))
    expired = lifecycle.expire(job, at=MUCH_LATER)
    assert expired is not None
    assert expired.verb == verb
    assert words in expired.entry["reason"]
    assert after(job, expired).losses == (verb == "expire")


@pytest.mark.parametrize(("told", "lost_on"), [(True, 1), (False, 0)])
def test_a_worker_that_was_never_told_of_a_job_may_have_it_again(told: bool, lost_on: int) -> None:
    job = running_job(kind="http")
    back = lifecycle.release(job, lease_of(job), reason="no place", at=LATER, told=told)
    assert len(after(job, back).lost_on) == lost_on


def test_an_attempt_that_never_started_costs_nothing() -> None:
    for job in (job_in(JobStatus.ASSIGNED), running_job(kind="http")):
        expired = lifecycle.expire(job, at=MUCH_LATER)
        assert expired is not None
        assert after(job, expired).attempts == job.attempts - 1


def test_three_workers_lost_in_a_row_make_a_poison_job() -> None:
    job = replace(running_job(max_retries=100), losses=POISON_LOSSES - 1)
    expired = lifecycle.expire(job, at=MUCH_LATER)
    assert expired is not None
    ended = after(job, expired)
    assert ended.status == "FAILED"
    assert "poison" in (ended.error_message or "")


def test_a_lost_attempt_remembers_where() -> None:
    job = running_job(kind="http")
    expired = lifecycle.expire(job, at=MUCH_LATER)
    assert expired is not None
    assert after(job, expired).lost_on == ("w1/boot-1",)


def test_a_new_attempt_begins_its_output_anew() -> None:
    job = replace(queued_job(), output_bytes=10, output_truncated=True, output_attempt=1)
    claimed = after(job, _claim(job))
    assert (claimed.output_bytes, claimed.output_truncated, claimed.output_attempt) == (0, False, 1)


def test_a_lease_that_names_no_attempt_is_none_of_a_job_that_its_worker_has_lost_before() -> None:
    job = running_job(kind="http")
    unnamed = Lease(job_id=job.job_id, worker_id=job.assigned_agent_id or "")
    assert unnamed.covers(job)
    again = replace(job, lost_on=(job.agent_boot or "",))
    assert not unnamed.covers(again)
    assert lease_of(again).covers(again)
