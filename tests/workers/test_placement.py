"""Placement: which job goes to which worker, and the reasons why the other jobs wait."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskyard.jobs.model import Job
from taskyard.workers import explanation, placement, places
from taskyard.workers.explanation import Sight
from taskyard.workers.model import Requirement, Usage, Worker
from taskyard.workers.placement import Plan
from taskyard.workers.places import Place
from tests.factories import NOW, queued_job, worker

OFFLINE_AFTER = timedelta(seconds=30)
RESERVE_AFTER = timedelta(seconds=60)


def placed(
    jobs: Sequence[Job],
    workers: Sequence[Worker],
    usage: dict[str, Usage] | None = None,
    *,
    reserve_after: timedelta = RESERVE_AFTER,
    still_queued: Collection[str] = (),
) -> Plan:
    """Run one pass over the jobs in the scheduler's order."""
    available = places.places(workers, usage or {}, NOW, OFFLINE_AFTER)
    return placement.place(
        in_order(jobs),
        available,
        now=NOW,
        reserve_after=reserve_after,
        still_queued=still_queued,
    )


def in_order(jobs: Sequence[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: (-job.priority, job.queued_at))


def where(plan: Plan) -> dict[str, str]:
    return {job.job_id: worker_id for job, worker_id in plan.placements}


def sight(workers: Sequence[Worker], usage: dict[str, Usage] | None = None) -> Sight:
    return explanation.look(workers, usage or {}, now=NOW, offline_after=OFFLINE_AFTER)


def why(job: Job, workers: Sequence[Worker], usage: dict[str, Usage] | None = None) -> str:
    return sight(workers, usage).reason(job, ahead=3)


def test_a_job_goes_to_the_worker_with_the_least_load() -> None:
    job = queued_job()
    idle, busy = worker("idle", cpu_usage=5), worker("busy", cpu_usage=80)
    assert where(placed([job], [busy, idle])) == {job.job_id: "idle"}


def test_a_host_that_is_busy_is_chosen_when_no_other_has_room() -> None:
    busy = worker("busy", cpu_usage=91, cpu_count=64, ram_free_mb=500_000)
    calm = worker("calm", cpu_usage=90, cpu_count=2)
    usage = {"calm": Usage(cpu=1, ram_mb=8192 - 256, job_ids=("x",))}
    first, second = queued_job(), queued_job(now=NOW + timedelta(seconds=1))
    plan = placed([first, second], [busy, calm], usage)
    assert where(plan) == {first.job_id: "calm", second.job_id: "busy"}
    assert why(queued_job(), [busy]) == "about to be placed"


def test_higher_priority_and_then_age_go_first() -> None:
    old = queued_job(now=NOW - timedelta(seconds=9), required_cpu=4)
    older = queued_job(now=NOW - timedelta(seconds=10), required_cpu=4)
    urgent = queued_job(priority=9, required_cpu=4)
    one = worker(cpu_count=4)
    assert list(where(placed([old, older, urgent], [one]))) == [urgent.job_id]
    assert list(where(placed([old, older], [one]))) == [older.job_id]


def test_a_thousand_jobs_that_fit_nowhere_do_not_hide_one_that_fits() -> None:
    large = [queued_job(required_cpu=64, priority=9) for _ in range(1000)]
    small = queued_job()
    assert list(where(placed([*large, small], [worker()]))) == [small.job_id]


def test_ten_tenths_of_a_cpu_fill_one() -> None:
    jobs = [queued_job(required_cpu=0.1) for _ in range(11)]
    assert len(placed(jobs, [worker(cpu_count=1)]).placements) == 10


@pytest.mark.parametrize(
    ("fields", "asked", "reason"),
    [
        ({}, {"required_cpu": 5}, "larger than every worker"),
        ({}, {"required_ram_mb": 10_000}, "larger than every worker"),
        ({"labels": ("cpu",)}, {"labels": ("gpu",)}, "gpu"),
        ({"draining": True}, {}, "every worker that is online is draining"),
        ({"last_heartbeat": NOW - timedelta(seconds=31)}, {}, "no worker is online"),
        ({"health": "OFFLINE"}, {}, "no worker is online"),
        ({"cooldown_until": NOW + timedelta(seconds=1)}, {}, "cooling down"),
        ({"health": "UNHEALTHY", "health_reason": "disk is full"}, {}, "disk is full"),
        ({"suspended_at": NOW}, {}, "lost a job"),
        ({"reserved_for": "another"}, {}, "busy"),
    ],
)
def test_a_worker_that_may_not_or_cannot_have_it_is_passed_over_with_a_reason(
    fields: dict[str, Any], asked: dict[str, Any], reason: str
) -> None:
    job, one = queued_job(**asked), worker(**fields)
    available = places.places([one], {}, NOW, OFFLINE_AFTER)
    plan = placement.place(
        [job], available, now=NOW, reserve_after=RESERVE_AFTER, still_queued=["another"]
    )
    told = sight([one]).explain(job, ahead=0)
    assert plan.placements == []
    assert reason in f"{told.reason} {told.workers}", told


def test_a_worker_holds_no_more_jobs_than_it_says() -> None:
    jobs = [queued_job(required_cpu=0.1) for _ in range(3)]
    plan = placed(jobs, [worker(max_jobs=2)], {"w1": Usage(cpu=0.1, ram_mb=1, job_ids=("x",))})
    assert len(plan.placements) == 1


def test_what_is_in_use_counts() -> None:
    usage = {"w1": Usage(cpu=3.5, ram_mb=100, job_ids=("x",))}
    job = queued_job()
    assert placed([job], [worker()], usage).placements == []
    assert why(job, [worker()], usage) == "all workers that could hold it are busy, 3 ahead"


def test_a_worker_that_is_free_and_lost_the_job_before_is_not_told_to_be_busy() -> None:
    """The only worker is an agent of the earlier system: the job waits until it restarts."""
    alone = worker(kind="http")
    job = queued_job(lost_on=(alone.boot,))
    expected = "every worker that could hold it lost it before, and has not registered anew"
    assert why(job, [alone]) == expected
    assert why(job, [alone, worker("w2", reserved_for="another")]) == (
        "all workers that could hold it are busy, 3 ahead"
    )


def test_nobody_there_is_told_first() -> None:
    assert why(queued_job(), []) == "no worker is registered"


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"health": "OFFLINE"}, "every worker that is online is draining"),
        ({"health": "UNHEALTHY"}, "no worker is healthy"),
    ],
)
def test_a_drain_is_told_where_it_is_all_that_keeps_jobs_waiting(
    others: dict[str, Any], reason: str
) -> None:
    workers = [worker(draining=True), worker("w2", **others)]
    assert why(queued_job(), workers) == reason


def test_a_large_job_that_waited_long_keeps_a_worker_free_for_itself() -> None:
    large = queued_job(now=NOW - timedelta(seconds=61), required_cpu=4, priority=9)
    small = queued_job()
    usage = {"w1": Usage(cpu=1, ram_mb=1, job_ids=("x",))}
    plan = placed([large, small], [worker()], usage)
    assert plan.reservations == {"w1": large.job_id}
    assert plan.placements == []
    kept = worker(reserved_for=large.job_id)
    assert where(placed([large], [kept])) == {large.job_id: "w1"}


def test_jobs_of_one_size_wait_for_their_turn_and_keep_no_place_free() -> None:
    usage = {"w1": Usage(cpu=4, ram_mb=1, job_ids=("x",))}
    jobs = [queued_job(now=NOW - 2 * RESERVE_AFTER, priority=n) for n in range(3)]
    assert placed(jobs, [worker()], usage).reservations == {}
    more_memory = queued_job(now=NOW - 2 * RESERVE_AFTER, required_ram_mb=512)
    assert placed([*jobs, more_memory], [worker()], usage).reservations == {
        "w1": more_memory.job_id
    }


def test_a_job_goes_to_the_place_that_is_kept_for_it_once_it_has_room() -> None:
    large = queued_job(required_cpu=4)
    kept, better = worker("kept", cpu_usage=50, reserved_for=large.job_id), worker("better")
    assert where(placed([large], [better, kept], still_queued=[large.job_id])) == {
        large.job_id: "kept"
    }


def test_what_was_kept_for_a_job_that_went_elsewhere_is_anybodys_in_the_same_pass() -> None:
    before, large, after = (
        queued_job(now=NOW + timedelta(seconds=n), required_cpu=cpu)
        for n, cpu in enumerate((1, 4, 1))
    )
    kept = worker("kept", reserved_for=large.job_id)
    other = worker("other", cpu_count=5, cpu_usage=50)
    usage = {"kept": Usage(cpu=1, ram_mb=1, job_ids=("x",))}
    plan = placed([before, large, after], [kept, other], usage, still_queued=[large.job_id])
    assert where(plan) == {before.job_id: "other", large.job_id: "other", after.job_id: "kept"}
    assert plan.reservations == {}


def test_a_reservation_for_a_job_that_is_gone_binds_nobody() -> None:
    job = queued_job()
    assert where(placed([job], [worker(reserved_for="gone")])) == {job.job_id: "w1"}


@pytest.mark.parametrize(
    ("kind", "fenced", "boot", "refused"),
    [
        ("http", False, "boot-1", True),
        ("http", False, "boot-2", False),
        ("http", True, "boot-1", False),
        ("celery", False, "boot-1", False),
    ],
)
def test_only_an_unfenced_agent_of_the_same_boot_is_refused_what_it_lost(
    kind: str, fenced: bool, boot: str, refused: bool
) -> None:
    job = replace(queued_job(), lost_on=("w1/boot-1",))
    one = worker(kind=kind, fenced=fenced, boot_id=boot)
    assert (places.refuses(one, job) is not None) == refused


SIZES = st.sampled_from([0.1, 0.5, 1, 2, 4, 16])
JOBS = st.lists(
    st.builds(
        queued_job,
        required_cpu=SIZES,
        required_ram_mb=st.sampled_from([1, 256, 4096]),
        priority=st.integers(0, 9),
        labels=st.sampled_from([(), ("gpu",)]),
        now=st.sampled_from([NOW, NOW - timedelta(minutes=5)]),
    ),
    max_size=30,
)
WORKERS = st.lists(
    st.builds(
        worker,
        worker_id=st.sampled_from([f"w{n}" for n in range(8)]),
        cpu_count=st.sampled_from([0.5, 1, 4, 16]),
        ram_total_mb=st.sampled_from([512, 8192]),
        labels=st.sampled_from([(), ("gpu",)]),
        max_jobs=st.sampled_from([0, 1, 3]),
        draining=st.booleans(),
        cpu_usage=st.sampled_from([0, 50, 95]),
    ),
    max_size=6,
    unique_by=lambda one: one.worker_id,
)


@given(jobs=JOBS, workers=WORKERS)
def test_no_worker_is_given_more_than_it_has_or_what_it_may_not_have(
    jobs: list[Job], workers: list[Worker]
) -> None:
    known = {one.worker_id: one for one in workers}
    given_to: dict[str, list[Job]] = {}
    plan = placed(jobs, workers)
    for job, worker_id in plan.placements:
        given_to.setdefault(worker_id, []).append(job)
    for worker_id, held in given_to.items():
        one = known[worker_id]
        assert sum(job.required_cpu for job in held) <= one.cpu_count + 1e-9
        assert sum(job.required_ram_mb for job in held) <= one.ram_total_mb
        assert not one.max_jobs or len(held) <= one.max_jobs
        assert not one.draining
        assert all(set(job.labels) <= set(one.labels) for job in held)


@given(jobs=JOBS, workers=WORKERS)
def test_each_job_in_its_turn_gets_the_best_place_that_has_room(
    jobs: list[Job], workers: list[Worker]
) -> None:
    given_to = where(placed(jobs, workers, reserve_after=timedelta(days=1)))
    spots = places.places(workers, {}, NOW, OFFLINE_AFTER)
    for job in in_order(jobs):
        fit = [spot for spot in spots if places.obstacle(spot, job, job.requirement) is None]
        best = min(fit, key=lambda spot: spot.score, default=None)
        assert given_to.get(job.job_id) == (best and best.worker.worker_id)
        if best:
            best.take(job)


@given(jobs=JOBS, workers=WORKERS)
def test_the_same_input_gives_the_same_plan_and_every_other_job_a_reason(
    jobs: list[Job], workers: list[Worker]
) -> None:
    plan = placed(jobs, workers)
    assert placed(jobs, workers) == plan
    for job in jobs:
        if job.job_id not in where(plan):
            assert why(job, workers)


def test_jobs_that_one_more_loss_makes_poison_never_share_a_worker_but_share_with_others() -> None:
    first, second, innocent = queued_job(losses=2), queued_job(losses=2), queued_job(losses=1)
    large = worker(cpu_count=8)
    plan = placed([first, second, innocent], [large])
    assert set(where(plan)) == {first.job_id, innocent.job_id}
    assert set(where(placed([first, second], [large, worker("w2", cpu_count=8)]))) == {
        first.job_id,
        second.job_id,
    }


def test_a_suspect_waits_while_another_runs_and_keeps_no_place_from_others() -> None:
    suspect = queued_job(losses=2, now=NOW - 2 * RESERVE_AFTER)
    usage = {"w1": Usage(cpu=1, ram_mb=1, job_ids=("x",), suspects=1)}
    plan = placed([suspect], [worker(cpu_count=8)], usage)
    assert (plan.placements, plan.reservations) == ([], {})
    told = sight([worker(cpu_count=8)], usage).explain(suspect)
    assert told.workers == {"w1": "runs another job that has lost its workers"}


def test_places_too_full_for_any_job_are_looked_at_once_whatever_the_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []
    really = places.too_full

    def noted(spot: Place, needed: Requirement) -> str | None:
        looked.append(spot.worker.worker_id)
        return really(spot, needed)

    monkeypatch.setattr(placement, "too_full", noted)
    full = {f"w{n:02}": Usage(cpu=4, ram_mb=1, job_ids=("x",)) for n in range(20)}
    workers = [worker(name, cpu_count=4) for name in full]
    queue = [queued_job(required_ram_mb=100 + n) for n in range(30)]
    plan = placed(queue, [*workers, worker("free", cpu_count=64)], full)
    assert set(where(plan).values()) == {"free"}
    assert len(looked) < 30 + 3 * 20, "not each of 30 kinds at each of 20 full places"


def test_a_place_that_was_too_full_for_any_is_kept_for_a_large_job_all_the_same() -> None:
    """Earlier kinds of job skipped that worker, but it suits the large job best."""
    usage = {
        "full": Usage(cpu=8, ram_mb=1, job_ids=("x",)),
        "other": Usage(cpu=1, ram_mb=1, job_ids=("y",)),
    }
    workers = [worker("full", cpu_count=8), worker("other", cpu_count=4, cpu_usage=90)]
    large = queued_job(required_cpu=8, now=NOW - 2 * RESERVE_AFTER)
    small = queued_job(priority=9)
    plan = placed([small, large], workers, usage)
    assert where(plan) == {small.job_id: "other"}
    assert plan.reservations == {"full": large.job_id}


def test_a_suspect_that_is_large_reserves_a_place_like_any_other() -> None:
    large = queued_job(losses=2, required_cpu=8, now=NOW - 2 * RESERVE_AFTER)
    usage = {"w1": Usage(cpu=1, ram_mb=1, job_ids=("x",))}
    plan = placed([large, queued_job()], [worker(cpu_count=8)], usage)
    assert plan.reservations == {"w1": large.job_id}


@given(job=JOBS.filter(bool).map(lambda jobs: jobs[0]), workers=WORKERS)
def test_there_is_room_for_as_many_of_a_kind_as_are_placed(job: Job, workers: list[Worker]) -> None:
    alike = [replace(job, job_id=f"job-{n}", queued_at=NOW) for n in range(20)]
    spots = places.places(workers, {}, NOW, OFFLINE_AFTER)
    room = places.room_on(spots, Requirement.of_shape(job.requirement.shape), at_most=20)
    assert room == len(placed(alike, workers).placements)


def test_a_place_is_full_when_not_even_the_smallest_job_fits() -> None:
    (spot,) = places.places([worker(cpu_count=1)], {}, NOW, OFFLINE_AFTER)
    for _ in range(10):
        assert not spot.is_full
        spot.take(queued_job(required_cpu=0.1))
    assert spot.is_full
    (slots,) = places.places(
        [worker(max_jobs=1)], {"w1": Usage(cpu=0.1, ram_mb=1, job_ids=("x",))}, NOW, OFFLINE_AFTER
    )
    assert slots.is_full


@given(
    cpu=st.floats(1e-6, 1024),
    ram_mb=st.integers(1, 2**24),
    labels=st.sets(st.sampled_from(["gpu", "a/b", "x:1"])),
)
def test_a_shape_tells_no_more_than_is_needed(cpu: float, ram_mb: int, labels: set[str]) -> None:
    needed = Requirement(cpu=cpu, ram_mb=ram_mb, labels=frozenset(labels))
    told = Requirement.of_shape(needed.shape)
    assert (told.ram_mb, told.labels) == (needed.ram_mb, needed.labels)
    assert cpu * (1 - 2e-5) < told.cpu <= cpu


def test_jobs_that_wait_for_their_turn_on_a_worker_take_no_more_than_it_has() -> None:
    small = worker(cpu_count=2, ram_total_mb=1024)
    used = Usage(cpu=9, ram_mb=512, job_ids=("a", "b")).of(small)
    assert (used.cpu, used.ram_mb, used.jobs) == (2, 512, 2)
