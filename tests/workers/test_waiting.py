"""Why a page of queued jobs waits: one look for each kind of job, and right for each job."""

from __future__ import annotations

from typing import Any

import pytest

from taskyard.context import Platform
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.waiting import explain
from taskyard.workers import explanation
from tests.factories import job_in, queued_job

FACTS: dict[str, Any] = {"kind": "http", "bootId": "b1", "cpuCount": 1, "ramTotalMb": 1024}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs for which all workers were looked at."""
    seen: list[str] = []
    really = explanation.Sight.explain

    def noted(self: explanation.Sight, job: Job, **named: Any) -> explanation.Waiting:
        seen.append(job.job_id)
        return really(self, job, **named)

    monkeypatch.setattr(explanation.Sight, "explain", noted)
    return seen


def test_jobs_of_one_shape_are_explained_once(platform: Platform, asked: list[str]) -> None:
    small = [queued_job() for _ in range(30)]
    large = [queued_job(required_cpu=4) for _ in range(20)]
    platform.store.workers.register("w1", FACTS, now=platform.store.clock.now())
    told = explain(platform, [*small, *large, job_in(JobStatus.COMPLETED)])
    assert len(asked) == 2
    assert {told[job.job_id].reason for job in small} == {"about to be placed"}
    assert all("larger than every worker" in told[job.job_id].reason for job in large)
    assert len(told) == 50


def test_what_is_particular_to_a_job_is_said_of_it_alone(platform: Platform) -> None:
    """Of one shape: one lost its worker, and for one the next place is kept."""
    usual, lost, kept = queued_job(), queued_job(lost_on=("w1/b1",)), queued_job()
    now, workers = platform.store.clock.now(), platform.store.workers
    for name in ("w1", "w2"):
        workers.register(name, FACTS, now=now)
    workers.reserve({"w2": kept.job_id}, {"w2": None})
    told = explain(platform, [usual, lost, kept])
    assert told[usual.job_id].workers["w1"] == "fits"
    assert "lost this job before" in told[lost.job_id].workers["w1"]
    assert "kept for a larger job" in told[usual.job_id].workers["w2"]
    assert told[kept.job_id].workers["w2"] == "fits"
