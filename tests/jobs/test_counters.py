"""What each transition adds to the counters."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from taskyard import ids
from taskyard.jobs import lifecycle
from taskyard.jobs.counters import moved_by
from taskyard.jobs.model import POISON_LOSSES, Job, lease_of
from taskyard.jobs.retry import Cause
from taskyard.jobs.transition import Moment, Outcome, Transition
from tests.factories import LEASE, NOW, after, assigned_job, queued_job, running_job, worker

LATER = Moment(now=NOW + timedelta(hours=1))


def moved(job: Job, transition: Transition | None) -> dict[str, float]:
    assert transition is not None
    assert transition.moved() == after(job, transition)
    return moved_by(transition)


def claim(job: Job, kind: str) -> Transition:
    holder = worker("w", kind=kind)
    return lifecycle.claim(
        job, worker=holder, lease_id=ids.lease(), at=LATER, lease_until=NOW + LEASE
    )


def test_a_job_that_just_runs_and_ends_moves_nothing() -> None:
    job = assigned_job()
    start = lifecycle.start(job, lease_of(job), at=LATER, lease_until=NOW + LEASE)
    assert moved(job, start) == {}
    running = after(job, start)
    done = lifecycle.finish(running, lease_of(running), Outcome(), at=LATER)
    assert moved(running, done) == {}


def test_a_lost_attempt_counts_as_lost_and_requeued() -> None:
    job = running_job()
    lost = {"attemptsLost": 1, "requeues.expire": 1}
    assert moved(job, lifecycle.expire(job, at=LATER)) == lost


def test_a_lost_attempt_that_is_not_tried_again_counts_as_lost_alone() -> None:
    job = running_job(max_retries=0)
    assert moved(job, lifecycle.expire(job, at=LATER)) == {"attemptsLost": 1}


def test_a_poison_job_counts_as_such() -> None:
    job = replace(running_job(max_retries=100), losses=POISON_LOSSES - 1)
    poison = {"attemptsLost": 1, "poisonJobs": 1}
    assert moved(job, lifecycle.expire(job, at=LATER)) == poison


def test_a_job_that_never_started_is_requeued_and_not_lost() -> None:
    for job in (assigned_job(), running_job(kind="http")):
        assert moved(job, lifecycle.expire(job, at=LATER)) == {"requeues.expire": 1}


def test_a_lost_job_that_runs_again_counts_as_recovered() -> None:
    job = replace(assigned_job(), losses=1)
    start = lifecycle.start(job, lease_of(job), at=LATER, lease_until=NOW + LEASE)
    assert moved(job, start) == {"jobsRecovered": 1}
    waiting = replace(queued_job(), losses=1)
    claimed = moved(waiting, claim(waiting, "http"))
    assert claimed == {"jobsRecovered": 1, "assignments.http": 1}


def test_a_claim_is_an_assignment_of_its_kind_of_agent() -> None:
    job = queued_job()
    assert moved(job, claim(job, "celery")) == {"assignments.celery": 1}


def test_requeues_are_told_apart_by_their_verb() -> None:
    job = running_job()
    failed = Outcome(cause=Cause.AGENT, detail="no disk")
    late = Outcome(cause=Cause.TIMEOUT, detail="late")
    lease = lease_of(job)
    assert moved(job, lifecycle.finish(job, lease, failed, at=LATER)) == {"requeues.fail": 1}
    assert moved(job, lifecycle.finish(job, lease, late, at=LATER)) == {"requeues.time_out": 1}
    given_back = lifecycle.release(job, lease, reason="drain", at=LATER)
    assert moved(job, given_back) == {"requeues.release": 1}
