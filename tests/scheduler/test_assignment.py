"""What a pass reads: as many jobs as could be placed, and none while no worker is free."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import Mock

import pytest

from taskyard import operations
from taskyard.context import Platform
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.scheduler import assignment
from tests import factories


def register(platform: Platform, worker_id: str = "w1", cpus: float = 1) -> None:
    facts = {"hostname": "h", "kind": "celery", "bootId": worker_id, "cpuCount": cpus}
    facts |= {"ramTotalMb": 8192}
    platform.store.workers.register(worker_id, facts, now=platform.store.clock.now())


def queue(
    platform: Platform, count: int = 1, *, age_seconds: float = 0, **fields: object
) -> list[Job]:
    at = platform.store.clock.now() - timedelta(seconds=age_seconds)
    jobs = [factories.queued_job(now=at, **fields) for _ in range(count)]
    platform.store.jobs.submit(jobs)
    return jobs


def status(platform: Platform, job: Job) -> JobStatus:
    return platform.store.jobs.get(job.job_id).status


def reserved(platform: Platform) -> str | None:
    return platform.store.workers.get("w1").reserved_for


def test_the_queue_is_not_read_while_nothing_is_free(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(platform)
    operations.submit(platform, [{"command": "true"}], by="app")
    monkeypatch.setattr(platform.store.live, "heads", heads := Mock(return_value=[]))
    operations.submit(platform, [{"command": "true"}], by="app")
    heads.assert_not_called()
    platform.run_pass("tick")
    heads.assert_called_once()


def test_of_a_shape_no_more_is_read_than_there_is_room_for(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment, "SPARE", 1)
    register(platform, cpus=2)
    queue(platform, 9)
    queue(platform, 9, required_cpu=2)
    queue(platform, 9, required_cpu=64)
    report = platform.run_pass("tick")
    assert (report.queued, len(report.assigned)) == (3 + 2, 2)


def test_a_job_that_waited_long_reserves_a_place_while_nothing_is_free(platform: Platform) -> None:
    register(platform, cpus=2)
    queue(platform)
    platform.run_pass("create")
    queue(platform)
    platform.run_pass("create")
    (large,) = queue(platform, required_cpu=2, age_seconds=61)
    queue(platform, 3)
    platform.run_pass("tick")
    assert reserved(platform) == large.job_id
    platform.run_pass("create")
    assert reserved(platform) == large.job_id


def test_a_job_is_read_for_which_a_place_is_kept_whatever_is_before_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment, "SPARE", 0)
    register(platform, cpus=2)
    (held,) = queue(platform)
    platform.run_pass("create")
    (large,) = queue(platform, required_cpu=2, age_seconds=61)
    queue(platform)
    platform.run_pass("tick")
    assert reserved(platform) == large.job_id
    urgent = queue(platform, 3, required_cpu=2, priority=9)
    operations.cancel(platform, held.job_id, by="op", reason=None)
    platform.run_pass("finish")
    assert status(platform, large) is JobStatus.ASSIGNED
    assert reserved(platform) is None
    assert {status(platform, job) for job in urgent} == {JobStatus.QUEUED}


def test_suspects_that_wait_for_another_do_not_hide_what_is_behind_them(
    platform: Platform,
) -> None:
    register(platform, cpus=2)
    suspects = queue(platform, 5, losses=2, age_seconds=9)
    (innocent,) = queue(platform)
    platform.run_pass("create")
    assert [status(platform, job) for job in suspects].count(JobStatus.ASSIGNED) == 1
    assert status(platform, innocent) is JobStatus.ASSIGNED


def test_all_that_a_worker_is_given_in_one_pass_has_one_lease_id(platform: Platform) -> None:
    register(platform, "w1", cpus=3)
    register(platform, "w2", cpus=3)
    jobs = queue(platform, 6)
    platform.run_pass("create")
    held = [platform.store.jobs.get(job.job_id) for job in jobs]
    assert len({(job.assigned_agent_id, job.lease_id) for job in held}) == 2
    assert len({job.lease_id for job in held}) == 2


def test_a_pass_that_fails_gives_its_lock_back(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("MongoDB is away")

    with monkeypatch.context() as patched:
        patched.setattr(assignment, "decide", fail)
        with pytest.raises(ConnectionError):
            assignment.tick(platform.store, platform.settings)
    assert assignment.tick(platform.store, platform.settings).ran
