"""Late writes: which ones are, and what the history says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from taskyard.jobs import lifecycle, refusal
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.refusal import REFUSALS_KEPT, Write
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment, Outcome, Transition
from tests.factories import NOW, after, assigned_job, job_in, running_job

LATER = Moment(now=NOW + timedelta(hours=1))


def lost(job: Job) -> Job:
    """Return the job after its lease has expired."""
    expired = lifecycle.expire(job, at=LATER)
    assert expired is not None
    return after(job, expired)


def refused(job: Job, lease: Lease, write: Write = Write.RESULT) -> Job:
    """Return the job with one refusal noted in its history."""
    line = refusal.entry(job, lease, write, NOW)
    assert line is not None
    return replace(job, history=(*job.history, line))


@pytest.mark.parametrize("write", Write)
def test_a_write_of_an_attempt_that_was_lost_is_late(write: Write) -> None:
    job = running_job()
    assert not refusal.is_late(job, lease_of(job), write)
    assert refusal.is_late(lost(job), lease_of(job), write)


@pytest.mark.parametrize("write", Write)
def test_a_write_of_an_attempt_that_the_sweep_ended_for_good_is_late(write: Write) -> None:
    job = running_job(max_retries=0)
    ended = lost(job)
    assert ended.status == "FAILED"
    assert lease_of(job).covers(ended)
    assert refusal.is_late(ended, lease_of(job), write)


def test_a_start_after_the_cancel_is_late() -> None:
    job = assigned_job()
    cancelled = after(job, lifecycle.cancel(job, by="op", reason=None, at=LATER))
    assert refusal.is_late(cancelled, lease_of(job), Write.START)


@pytest.mark.parametrize("write", [Write.RESULT, Write.HEARTBEAT, Write.CANCEL, Write.RELEASE])
def test_the_holders_own_word_said_again_is_not_late(write: Write) -> None:
    ended = job_in(JobStatus.COMPLETED)
    assert not refusal.is_late(ended, lease_of(ended), write)


@pytest.mark.parametrize(
    "give_back",
    [
        partial(lifecycle.release, reason="drain"),
        partial(lifecycle.finish, outcome=Outcome(cause=Cause.AGENT, detail="disk")),
    ],
)
def test_so_is_what_crosses_the_holders_word_that_it_gives_the_job_back(
    give_back: Callable[..., Transition],
) -> None:
    job = running_job()
    lease = lease_of(job)
    queued = after(job, give_back(job, lease, at=LATER))
    assert queued.status == "QUEUED"
    late = {write for write in Write if refusal.is_late(queued, lease, write)}
    assert late == {Write.OUTPUT}
    noted = refused(queued, lease, Write.OUTPUT)
    assert not refusal.is_late(noted, lease, Write.HEARTBEAT)


def test_output_after_the_end_is_late_even_of_the_holder() -> None:
    ended = job_in(JobStatus.COMPLETED)
    assert refusal.is_late(ended, lease_of(ended), Write.OUTPUT)


@pytest.mark.parametrize(
    "changes", [{"worker_id": "w2"}, {"attempt": 7}, {"lease_id": "other"}, {"worker_id": ""}]
)
def test_a_write_of_another_attempt_is_late(changes: dict[str, Any]) -> None:
    job = running_job()
    assert refusal.is_late(job, replace(lease_of(job), **changes), Write.RESULT)


def test_the_line_names_the_old_attempt_and_worker_and_leads_nowhere() -> None:
    job = lost(running_job("w1"))
    line = refusal.entry(job, Lease(job_id=job.job_id, worker_id="w1"), Write.OUTPUT, NOW)
    assert line is not None
    assert (line["from"], line["to"]) == ("QUEUED", "QUEUED")
    assert (line["attempt"], line["worker"]) == (1, "w1")
    assert line["reason"] == "output refused: the attempt is over"


def test_the_same_attempt_worker_and_kind_are_told_of_once() -> None:
    held = running_job("w1")
    lease = lease_of(held)
    job = refused(lost(held), lease)
    assert refusal.entry(job, lease, Write.RESULT, NOW) is None
    for other in (replace(lease, attempt=2), replace(lease, worker_id="w2")):
        assert refusal.entry(job, other, Write.RESULT, NOW) is not None
    assert refusal.entry(job, lease, Write.OUTPUT, NOW) is not None


def test_an_agent_that_invents_attempts_cannot_push_out_the_history() -> None:
    job = running_job()
    for attempt in range(2, 2 + REFUSALS_KEPT):
        job = refused(job, replace(lease_of(job), attempt=attempt))
    assert refusal.entry(job, replace(lease_of(job), attempt=99), Write.RESULT, NOW) is None


def test_a_refusal_does_not_hide_who_ended_the_job() -> None:
    held = running_job(max_retries=0)
    assert not refusal.ended_by_holder(refused(lost(held), lease_of(held)))
    done = job_in(JobStatus.COMPLETED)
    assert refusal.ended_by_holder(refused(done, replace(lease_of(done), attempt=7)))
