"""The results of many jobs in one request."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from taskyard import operations
from taskyard.context import Platform
from taskyard.jobs.states import JobStatus
from taskyard.store import output as output_module
from taskyard.store.feed import Feed, Waiter
from taskyard.store.live import LiveJobs
from taskyard.store.output import SMALL_BYTES
from tests import factories
from tests.api.agents import HttpAgent, status_of, submit_job
from tests.api.conftest import As
from tests.factories import stored


def ask(api: FlaskClient, job_ids: Sequence[str], **body: Any) -> dict[str, Any]:
    answer = api.post("/api/jobs/results", json={"jobIds": list(job_ids), **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def test_results_come_in_the_order_that_was_asked_for(api: FlaskClient, platform: Platform) -> None:
    jobs = [stored(platform, status) for status in JobStatus]
    wanted = [job.job_id for job in reversed(jobs)]
    answer = ask(api, wanted)
    assert [result["jobId"] for result in answer["jobs"]] == wanted
    assert [result["status"] for result in answer["jobs"]] == [
        str(job.status) for job in reversed(jobs)
    ]
    assert answer["ended"] == 3


def test_a_result_has_what_status_has_of_it(api: FlaskClient, platform: Platform) -> None:
    job = replace(
        factories.job_in(JobStatus.FAILED, now=platform.store.clock.now()),
        small_output=({"stream": "stdout", "data": "a\n"}, {"stream": "stderr", "data": "b\n"}),
        output_bytes=4,
    )
    platform.store.jobs.submit([job])
    in_full = api.get(f"/api/jobs/status?jobId={job.job_id}").get_json()
    (result,) = ask(api, [job.job_id])["jobs"]
    assert result == {name: in_full[name] for name in result}
    assert (result["stdout"], result["stderr"], result["exitCode"]) == ("a\n", "b\n", 1)


def test_much_output_is_null_and_none_at_all_is_empty(api: FlaskClient, agent: HttpAgent) -> None:
    printing, silent = submit_job(api), submit_job(api)
    for text in ("x" * 3000, ""):
        agent.poll()
        agent.submit(0, stdout=text)
    results = ask(api, [printing, silent])["jobs"]
    assert [result["stdout"] for result in results] == [None, ""]
    assert results[0]["outputBytes"] == 3000


def test_what_was_stored_before_the_end_is_there_if_it_is_little(
    api: FlaskClient, agent: HttpAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "_TOGETHER", 2)
    ended, replaced, running = (submit_job(api) for _ in range(3))
    for job_id in (ended, replaced, running):
        agent.poll()
        for data, stream in (("a", "stdout"), ("é", "stderr"), ("b\n", "stdout")):
            agent.stream(data, stream)
        if job_id == ended:
            agent.submit(0, stdout=None, stderr=None)
        elif job_id == replaced:
            agent.submit(0, stdout="other", stderr="")
    wanted = [ended, replaced, running, ended]
    results = ask(api, wanted)["jobs"]
    told = [(result["stdout"], result["stderr"]) for result in results]
    assert told == [("ab\n", "é"), ("other", ""), ("ab\n", "é"), ("ab\n", "é")]
    in_full = [status_of(api, job_id) for job_id in wanted]
    assert told == [(status["stdout"], status["stderr"]) for status in in_full]


@pytest.mark.parametrize(("size", "told"), [(SMALL_BYTES, True), (SMALL_BYTES + 1, False)])
def test_little_is_so_much(api: FlaskClient, agent: HttpAgent, size: int, told: bool) -> None:
    job_id = submit_job(api)
    agent.poll()
    agent.stream("x" * size)
    agent.submit(0, stdout=None, stderr=None)
    (result,) = ask(api, [job_id])["jobs"]
    assert result["stdout"] == ("x" * size if told else None)


def test_it_is_answered_as_soon_as_all_have_ended(api: FlaskClient, platform: Platform) -> None:
    jobs = [stored(platform, JobStatus.QUEUED) for _ in range(3)]
    wanted = [job.job_id for job in jobs]
    answers: list[dict[str, Any]] = []
    began = time.monotonic()
    asking = threading.Thread(target=lambda: answers.append(ask(api, wanted, wait=30)))
    asking.start()
    for job_id in reversed(wanted):
        assert asking.is_alive()
        operations.cancel(platform, job_id, by="op", reason=None)
    asking.join()
    assert time.monotonic() - began < 10
    assert answers[0]["ended"] == 3


def test_after_its_wait_it_says_how_things_stand(api: FlaskClient, platform: Platform) -> None:
    ended, queued = stored(platform, JobStatus.COMPLETED), stored(platform, JobStatus.QUEUED)
    answer = ask(api, [ended.job_id, queued.job_id], wait=1)
    assert answer["ended"] == 1
    assert [result["status"] for result in answer["jobs"]] == ["COMPLETED", "QUEUED"]


def test_while_it_waits_it_looks_once_a_second_and_no_more(
    api: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued, looks = stored(platform, JobStatus.QUEUED), Counter[str]()
    among = LiveJobs.among

    def counted(self: LiveJobs, job_ids: Sequence[str]) -> list[str]:
        looks["among"] += 1
        return among(self, job_ids)

    @contextmanager
    def opened(self: Feed, job_id: str) -> Iterator[Waiter]:
        with waiting(self, job_id) as waiter:
            # As the change stream does for all waiters when it opens.
            waiter.set()
            yield waiter

    waiting = Feed.waiting_for_end
    monkeypatch.setattr(Feed, "waiting_for_end", opened)
    monkeypatch.setattr(LiveJobs, "among", counted)
    ask(api, [queued.job_id], wait=1)
    assert looks["among"] < 10


def test_a_job_that_is_not_there_is_named(api: FlaskClient, platform: Platform) -> None:
    there = stored(platform, JobStatus.COMPLETED)
    answer = api.post("/api/jobs/results", json={"jobIds": [there.job_id, "job-none"]})
    assert answer.status_code == 404
    assert "job-none" in answer.get_json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "jobIds"),
        ({"jobIds": []}, "jobIds"),
        ({"jobIds": ["x"] * 1001}, "jobIds"),
        ({"jobIds": "x"}, "jobIds"),
        ({"jobIds": [{"$ne": ""}]}, "jobIds"),
        ({"jobIds": ["x"], "wait": 61}, "wait"),
        ({"jobIds": ["x"], "wait": "1"}, "wait"),
        ({"jobIds": ["x"], "status": "QUEUED"}, "status"),
    ],
)
def test_what_is_no_such_request_is_refused_by_field(
    api: FlaskClient, body: dict[str, Any], field: str
) -> None:
    answer = api.post("/api/jobs/results", json=body)
    assert answer.status_code == 422
    assert field in str(answer.get_json()["errors"])


def test_viewers_may_read_results_and_agents_may_not(as_role: As, platform: Platform) -> None:
    job = stored(platform, JobStatus.COMPLETED)
    body = {"jobIds": [job.job_id]}
    assert as_role("viewer").post("/api/jobs/results", json=body).status_code == 200
    assert as_role("agent").post("/api/jobs/results", json=body).status_code == 403
