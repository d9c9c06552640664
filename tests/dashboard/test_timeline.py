"""The timeline: the phases of a job, drawn to scale."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskyard.dashboard import timeline
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.retry import Cause
from taskyard.jobs.transition import Moment, Outcome
from tests import factories
from tests.factories import LEASE, NOW, after

EXIT_1 = Outcome(cause=Cause.EXIT, detail="exit code 1", exit_code=1)


def submitted(**fields: object) -> Job:
    entry = {
        "at": NOW,
        "verb": "submit",
        "from": None,
        "to": "QUEUED",
        "attempt": 0,
        "worker": None,
        "reason": None,
    }
    return factories.queued_job(history=(entry,), **fields)


def at(seconds: float) -> Moment:
    return Moment(now=NOW + timedelta(seconds=seconds))


def run(job: Job, assigned: float, started: float, ended: float | None = None) -> Job:
    job = after(
        job,
        lifecycle.assign(
            job, worker_id="w1", lease_id="l", at=at(assigned), start_by=at(assigned).now + LEASE
        ),
    )
    until = at(started).now + LEASE
    job = after(job, lifecycle.start(job, lease_of(job), at=at(started), lease_until=until))
    if ended is None:
        return job
    return after(job, lifecycle.finish(job, lease_of(job), EXIT_1, at=at(ended)))


def test_each_state_has_its_share_of_the_whole() -> None:
    drawn = timeline.draw(run(submitted(), 10, 20, 40), at(99).now)
    assert drawn.seconds == 40
    [row] = drawn.rows
    assert [(bar.state, bar.left, bar.width) for bar in row.bars] == [
        ("QUEUED", 0, 25),
        ("ASSIGNED", 25, 25),
        ("RUNNING", 50, 50),
    ]
    assert (row.end, row.reason, row.worker) == ("FAILED", "exit code 1", "w1")


def test_attempts_have_rows_of_their_own_and_what_waits_belongs_to_the_next() -> None:
    job = run(submitted(retry_on_exit=True), 1, 2, 5)
    drawn = timeline.draw(run(job, 9, 10), at(20).now)
    assert [(row.attempt, row.end) for row in drawn.rows] == [(1, "QUEUED"), (2, None)]
    assert drawn.rows[1].seconds == {"QUEUED": 4, "ASSIGNED": 1, "RUNNING": 10}
    assert drawn.rows[1].bars[0].left == 25


def test_a_job_that_waits_goes_on_until_now() -> None:
    drawn = timeline.draw(submitted(), at(7).now)
    assert [(row.attempt, row.seconds) for row in drawn.rows] == [(1, {"QUEUED": 7})]


def test_a_job_cancelled_in_the_queue_ends_there() -> None:
    job = submitted()
    job = after(job, lifecycle.cancel(job, by="op", reason="no", at=at(3)))
    [row] = timeline.draw(job, at(9).now).rows
    assert (row.seconds, row.end) == ({"QUEUED": 3}, "CANCELLED")


def test_a_cancel_that_was_only_asked_for_breaks_no_bar() -> None:
    job = run(submitted(), 1, 2)
    job = after(job, lifecycle.cancel(job, by="op", reason=None, at=at(4)))
    [row] = timeline.draw(job, at(6).now).rows
    assert [bar.state for bar in row.bars] == ["QUEUED", "ASSIGNED", "RUNNING"]


@pytest.mark.parametrize("job", [factories.queued_job(), factories.running_job()])
def test_a_history_whose_beginning_is_gone_is_drawn_as_far_as_it_goes(job: Job) -> None:
    timeline.draw(job, at(1).now)
