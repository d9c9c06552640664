"""A seed decides the whole plan, and a plan has every requested kind of fault."""

from __future__ import annotations

from tests.chaos import plan
from tests.chaos.faults import FAULTS


def made(seed: int) -> plan.Plan:
    return plan.make(seed, seconds=200, jobs_per_second=4, fault_every=5, lease=3)


def test_one_seed_gives_one_plan() -> None:
    assert made(7) == made(7)
    assert made(7) != made(8)


def test_every_kind_of_fault_strikes_before_one_strikes_again() -> None:
    kinds = [fault.kind for fault in made(7).faults]
    assert set(kinds[: len(plan.KINDS)]) == set(plan.KINDS)


def test_every_planned_fault_can_be_had() -> None:
    assert set(plan.KINDS) == set(FAULTS)


def test_the_load_has_every_kind_of_job() -> None:
    submissions = made(7).submissions
    jobs = [job for submission in submissions for job in submission.jobs]
    assert any(submission.twice for submission in submissions)
    assert any(submission.as_list for submission in submissions)
    assert any(submission.cancel_after is not None for submission in submissions)
    assert any(job.exit_code for job in jobs)
    assert any(job.ignores_term for job in jobs)
    assert any(job.setsid_child for job in jobs)


def test_a_fault_outlasts_the_lease_where_it_is_about_the_lease() -> None:
    for fault in made(7).faults:
        if fault.kind == "agent-pause":
            assert fault.seconds == 9
