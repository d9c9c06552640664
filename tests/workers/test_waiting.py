"""Why the queued jobs of a page wait: workers are examined once per kind, right for each job."""

from __future__ import annotations

from typing import Any

import pytest

from taskyard.context import Platform
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.waiting import explain, reasons
from taskyard.workers import explanation
from tests.factories import job_in, queued_job

FACTS: dict[str, Any] = {"kind": "http", "bootId": "b1", "cpuCount": 1, "ramTotalMb": 1024}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the jobs for which all workers were examined."""
    seen: list[str] = []
    really = explanation.Sight.reason

    def noted(self: explanation.Sight, job: Job, **named: Any) -> str:
        seen.append(job.job_id)
        return really(self, job, **named)

    monkeypatch.setattr(explanation.Sight, "reason", noted)
    return seen


def test_jobs_of_one_shape_are_explained_once(platform: Platform, asked: list[str]) -> None:
    small = [queued_job() for _ in range(30)]
    large = [queued_job(required_cpu=4) for _ in range(20)]
    platform.store.workers.register("w1", FACTS, now=platform.store.clock.now())
    told = reasons(platform, [*small, *large, job_in(JobStatus.COMPLETED)])
    assert len(asked) == 2
    assert {told[job.job_id] for job in small} == {"about to be placed"}
    assert all("larger than every worker" in told[job.job_id] for job in large)
    assert len(told) == 50


def test_what_is_particular_to_a_job_is_said_of_it_alone(platform: Platform) -> None:
    """Three jobs have one shape; one has lost its worker, and a place is kept for another."""
    usual, lost, kept = queued_job(), queued_job(lost_on=("w1/b1",)), queued_job()
    now, workers = platform.store.clock.now(), platform.store.workers
    for name in ("w1", "w2"):
        workers.register(name, FACTS, now=now)
    workers.reserve({"w2": kept.job_id}, {"w2": None})
    told = {job.job_id: explain(platform, job) for job in (usual, lost, kept)}
    by_worker = {name: found.workers for name, found in told.items() if found}
    assert by_worker[usual.job_id]["w1"] == "fits"
    assert "lost this job before" in by_worker[lost.job_id]["w1"]
    assert "kept for a larger job" in by_worker[usual.job_id]["w2"]
    assert by_worker[kept.job_id]["w2"] == "fits"
    listed = reasons(platform, [usual, lost, kept])
    assert listed == dict.fromkeys([usual.job_id, kept.job_id], "about to be placed") | {
        lost.job_id: "all workers that could hold it are busy"
    }


def test_a_job_that_is_not_queued_does_not_wait(platform: Platform) -> None:
    ended = job_in(JobStatus.COMPLETED)
    assert (explain(platform, ended), reasons(platform, [ended])) == (None, {})
