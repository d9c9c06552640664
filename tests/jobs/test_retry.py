"""Whether a failed attempt is followed by another, and a job's states and transitions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from taskyard import ids
from taskyard.jobs import lifecycle
from taskyard.jobs.model import POISON_LOSSES, Job, lease_of
from taskyard.jobs.retry import Cause, RetryDecision, decide
from taskyard.jobs.states import HELD, LIVE, ROADS, TERMINAL, JobStatus, Verb
from taskyard.jobs.transition import Moment, Outcome
from tests import factories

#: Causes that are not the command's fault, and are retried whatever ``retry_on_exit`` says.
NOT_THE_COMMAND = [Cause.AGENT, Cause.TIMEOUT, Cause.LOST, Cause.STOPPED]


def on_attempt(number: int, **fields: Any) -> Job:
    """Return a job that runs its ``number``-th attempt."""
    return factories.running_job(attempts=number - 1, **fields)


def ended_by(job: Job, cause: Cause) -> Job:
    """Return the queued job after its next attempt has ended for this cause."""
    at = Moment(now=job.queued_at)
    until = at.now + factories.LEASE
    assigned = factories.after(
        job,
        lifecycle.assign(job, worker_id="w1", lease_id=ids.lease(), at=at, start_by=until),
    )
    held = factories.after(
        assigned, lifecycle.start(assigned, lease_of(assigned), at=at, lease_until=until)
    )
    late = Moment(now=until + timedelta(seconds=1))
    if cause is Cause.LOST:
        expired = lifecycle.expire(held, at=late)
        assert expired is not None
        return factories.after(held, expired)
    outcome = Outcome(cause=cause, detail="it ended")
    return factories.after(held, lifecycle.finish(held, lease_of(held), outcome, at=late))


# --- the command's own exit


@pytest.mark.parametrize("number", [1, 2, 9])
def test_a_failed_command_is_not_tried_again_unless_it_asked_for_it(number: int) -> None:
    job = on_attempt(number, max_retries=100)
    assert decide(job, Cause.EXIT, "exit code 1") == RetryDecision(
        again=False, reason="exit code 1"
    )


def test_a_failed_command_that_was_never_to_be_retried_does_not_speak_of_retries_left() -> None:
    job = on_attempt(4, max_retries=3)
    assert decide(job, Cause.EXIT, "exit code 1").reason == "exit code 1"


@pytest.mark.parametrize("cause", NOT_THE_COMMAND)
@pytest.mark.parametrize("retry_on_exit", [False, True])
def test_what_is_not_the_commands_doing_is_tried_again_whatever_it_says_of_exits(
    cause: Cause, retry_on_exit: bool
) -> None:
    job = on_attempt(1, retry_on_exit=retry_on_exit)
    assert decide(job, cause, "it ended") == RetryDecision(again=True, reason="it ended")


# --- retries left


@pytest.mark.parametrize("cause", list(Cause))
@pytest.mark.parametrize(
    ("number", "max_retries", "again"),
    [
        (1, 0, False),
        (1, 1, True),
        (2, 1, False),
        (3, 3, True),
        (4, 3, False),
        (5, 3, False),
        (100, 100, True),
        (101, 100, False),
    ],
)
def test_a_job_has_one_attempt_more_than_it_has_retries(
    cause: Cause, number: int, max_retries: int, again: bool
) -> None:
    job = on_attempt(number, max_retries=max_retries, retry_on_exit=True)
    reason = "it ended" if again else "it ended; no retries left"
    assert decide(job, cause, "it ended") == RetryDecision(again=again, reason=reason)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.LOST])
@pytest.mark.parametrize("max_retries", [0, 1, 5])
def test_a_job_that_always_fails_runs_once_and_then_once_per_retry(
    cause: Cause, max_retries: int
) -> None:
    job = factories.queued_job(max_retries=max_retries, retry_on_exit=True)
    for _ in range(max_retries):
        job = ended_by(job, cause)
        assert job.status is JobStatus.QUEUED
    job = ended_by(job, cause)
    assert (job.status, job.attempts) == (JobStatus.FAILED, max_retries + 1)


# --- poison jobs


@pytest.mark.parametrize("losses", range(POISON_LOSSES + 2))
def test_a_job_is_poison_from_its_third_loss_on(losses: int) -> None:
    job = on_attempt(losses + 1, losses=losses, max_retries=100)
    decision = decide(job, Cause.LOST, "worker w1 was lost")
    if losses < 2:
        assert decision == RetryDecision(again=True, reason="worker w1 was lost")
    else:
        poison = "poison job: its worker was lost 3 times in a row (worker w1 was lost)"
        assert decision == RetryDecision(again=False, reason=poison)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.LOST])
def test_only_a_loss_makes_a_job_poison(cause: Cause) -> None:
    job = on_attempt(3, losses=POISON_LOSSES - 1, max_retries=100, retry_on_exit=True)
    assert decide(job, cause, "it ended") == RetryDecision(again=True, reason="it ended")


@pytest.mark.parametrize(
    ("number", "losses", "max_retries", "words"),
    [
        (3, 2, 2, "poison job: its worker was lost 3 times in a row (gone)"),
        (3, 2, 0, "poison job: its worker was lost 3 times in a row (gone)"),
        (2, 1, 1, "gone; no retries left"),
        (1, 0, 0, "gone; no retries left"),
    ],
)
def test_a_job_that_is_poison_is_called_so_even_when_no_retries_are_left(
    number: int, losses: int, max_retries: int, words: str
) -> None:
    job = on_attempt(number, losses=losses, max_retries=max_retries)
    assert decide(job, Cause.LOST, "gone") == RetryDecision(again=False, reason=words)


@pytest.mark.parametrize(
    ("causes", "status"),
    [
        ([Cause.LOST, Cause.LOST], JobStatus.QUEUED),
        ([Cause.LOST, Cause.LOST, Cause.LOST], JobStatus.FAILED),
        ([Cause.TIMEOUT, Cause.LOST, Cause.LOST], JobStatus.QUEUED),
        ([Cause.AGENT, Cause.LOST, Cause.LOST, Cause.LOST], JobStatus.FAILED),
        ([Cause.LOST, Cause.LOST, Cause.EXIT, Cause.LOST], JobStatus.QUEUED),
        ([Cause.LOST, Cause.LOST, Cause.AGENT, Cause.LOST], JobStatus.QUEUED),
        ([Cause.LOST, Cause.LOST, Cause.TIMEOUT, Cause.LOST], JobStatus.QUEUED),
        ([Cause.LOST, Cause.LOST, Cause.STOPPED, Cause.LOST], JobStatus.QUEUED),
        ([Cause.LOST, Cause.STOPPED, Cause.LOST, Cause.LOST], JobStatus.QUEUED),
        ([Cause.LOST, Cause.AGENT, Cause.LOST, Cause.LOST, Cause.LOST], JobStatus.FAILED),
    ],
)
def test_only_losses_in_a_row_are_counted(causes: list[Cause], status: JobStatus) -> None:
    job = factories.queued_job(max_retries=100, retry_on_exit=True)
    for cause in causes[:-1]:
        job = ended_by(job, cause)
        assert job.status is JobStatus.QUEUED
    assert ended_by(job, causes[-1]).status is status


# --- the decision itself


@pytest.mark.parametrize("cause", list(Cause))
@pytest.mark.parametrize(("number", "losses"), [(1, 0), (3, 0), (3, 2), (4, 0), (4, 2)])
@pytest.mark.parametrize("retry_on_exit", [False, True])
def test_every_decision_tells_what_happened(
    cause: Cause, number: int, losses: int, retry_on_exit: bool
) -> None:
    job = on_attempt(number, losses=losses, max_retries=3, retry_on_exit=retry_on_exit)
    assert "what happened" in decide(job, cause, "what happened").reason


@pytest.mark.parametrize(
    ("cause", "word"),
    [
        (Cause.EXIT, "exit"),
        (Cause.AGENT, "agent_error"),
        (Cause.TIMEOUT, "timeout"),
        (Cause.LOST, "lost"),
        (Cause.STOPPED, "agent_stopped"),
    ],
)
def test_a_cause_is_written_as_its_word(cause: Cause, word: str) -> None:
    assert str(cause) == word
    assert Cause(word) is cause


# --- states


@pytest.mark.parametrize(
    ("status", "held", "live", "terminal"),
    [
        (JobStatus.QUEUED, False, True, False),
        (JobStatus.ASSIGNED, True, True, False),
        (JobStatus.RUNNING, True, True, False),
        (JobStatus.COMPLETED, False, False, True),
        (JobStatus.FAILED, False, False, True),
        (JobStatus.CANCELLED, False, False, True),
    ],
)
def test_a_state_is_held_live_or_terminal(
    status: JobStatus, held: bool, live: bool, terminal: bool
) -> None:
    assert (status in HELD, status in LIVE, status in TERMINAL) == (held, live, terminal)


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_state_is_either_live_or_terminal(status: JobStatus) -> None:
    assert (status in LIVE) is not (status in TERMINAL)
    assert factories.job_in(status).is_terminal is (status in TERMINAL)


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_job_is_under_a_lease_exactly_while_it_is_held(status: JobStatus) -> None:
    assert (factories.job_in(status).lease_until is not None) is (status in HELD)


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_state_is_written_in_capitals(status: JobStatus) -> None:
    assert str(status) == status.name
    assert JobStatus(status.name) is status


@pytest.mark.parametrize("word", ["queued", "Running", "DONE", "TIMED_OUT", ""])
def test_no_other_word_is_a_state(word: str) -> None:
    with pytest.raises(ValueError, match="is not a valid JobStatus"):
        JobStatus(word)


# --- roads


@pytest.mark.parametrize("verb", list(Verb))
def test_a_verb_is_written_as_its_name_in_small_letters(verb: Verb) -> None:
    assert str(verb) == verb.name.lower()


@pytest.mark.parametrize("verb", list(Verb))
def test_every_verb_has_a_road_but_the_one_that_makes_the_job(verb: Verb) -> None:
    assert (verb in ROADS) is (verb is not Verb.SUBMIT)


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_no_road_leads_out_of_a_terminal_state(status: JobStatus) -> None:
    starts = {
        start for verb, roads in ROADS.items() for start, _ in roads if verb is not Verb.REFUSE
    }
    assert status not in starts


def test_a_refusal_leads_nowhere() -> None:
    assert ROADS[Verb.REFUSE] == {(status, status) for status in JobStatus}


@pytest.mark.parametrize("status", sorted(LIVE))
def test_a_live_job_can_always_be_cancelled(status: JobStatus) -> None:
    assert status in {start for start, _ in ROADS[Verb.CANCEL]}


@pytest.mark.parametrize("status", sorted(HELD))
@pytest.mark.parametrize("verb", [Verb.EXPIRE, Verb.RELEASE])
def test_a_held_job_can_always_come_back_to_the_queue(status: JobStatus, verb: Verb) -> None:
    assert (status, JobStatus.QUEUED) in ROADS[verb]


@pytest.mark.parametrize("status", list(JobStatus))
def test_every_state_can_be_reached_from_the_queue(status: JobStatus) -> None:
    reached = {JobStatus.QUEUED}
    for _ in JobStatus:
        for roads in ROADS.values():
            reached |= {end for start, end in roads if start in reached}
    assert status in reached


@pytest.mark.parametrize("status", [status for status in JobStatus if status != JobStatus.QUEUED])
def test_a_job_comes_to_its_state_by_known_roads(status: JobStatus) -> None:
    job = factories.job_in(status)
    assert job.status is status
    for step in job.history:
        assert (step["from"], step["to"]) in ROADS[Verb(step["verb"])]


@pytest.mark.parametrize(
    ("cause", "verb"),
    [
        (Cause.EXIT, Verb.FAIL),
        (Cause.AGENT, Verb.FAIL),
        (Cause.STOPPED, Verb.FAIL),
        (Cause.TIMEOUT, Verb.TIME_OUT),
        (Cause.LOST, Verb.EXPIRE),
    ],
)
@pytest.mark.parametrize(
    ("max_retries", "to"), [(1, JobStatus.QUEUED), (0, JobStatus.FAILED)], ids=["again", "end"]
)
def test_an_attempt_that_fails_takes_the_road_of_its_cause(
    cause: Cause, verb: Verb, max_retries: int, to: JobStatus
) -> None:
    job = ended_by(factories.queued_job(max_retries=max_retries, retry_on_exit=True), cause)
    step = job.history[-1]
    assert (step["verb"], step["from"], step["to"]) == (verb, JobStatus.RUNNING, to)
    assert (JobStatus.RUNNING, to) in ROADS[verb]
