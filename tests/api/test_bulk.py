"""Cancel and retry of all jobs that match: counted, then done in batches, each job by its verb."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from taskyard import bulk
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from tests import factories
from tests.api.conftest import As


def stored(platform: Platform, status: JobStatus, **fields: Any) -> Job:
    fields.setdefault("now", platform.store.clock.now() - timedelta(seconds=1))
    job = factories.job_in(status, **fields)
    platform.store.jobs.submit([job])
    return job


def ask(api: FlaskClient, **body: Any) -> dict[str, Any]:
    answer = api.post("/api/jobs/bulk", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def statuses(platform: Platform) -> dict[str, str]:
    return {job["_id"]: job["status"] for job in platform.store.database["jobs"].find()}


def test_a_dry_run_counts_what_the_action_may_be_done_to_and_does_nothing(
    api: FlaskClient, platform: Platform
) -> None:
    for status in JobStatus:
        stored(platform, status, command="pytest")
    before = statuses(platform)
    cancel = ask(api, action="cancel", q="pytest", dryRun=True)
    retry = ask(api, action="retry", q="pytest -status:completed", dryRun=True)
    assert (cancel["matched"], retry["matched"]) == (3, 2)
    assert (cancel["more"], retry["more"]) == (False, False)
    assert statuses(platform) == before


def test_cancelling_ends_what_waits_and_asks_what_runs_with_the_reason(
    api: FlaskClient, platform: Platform
) -> None:
    queued, running = (stored(platform, status) for status in (JobStatus.QUEUED, JobStatus.RUNNING))
    other = stored(platform, JobStatus.QUEUED, labels=["gpu"])
    answer = ask(api, action="cancel", q="-label:gpu", reason="wrong input")
    assert sorted(answer["jobIds"]) == sorted([queued.job_id, running.job_id])
    assert answer["next"] is None
    ended = platform.store.jobs.get(queued.job_id)
    assert ended.status is JobStatus.CANCELLED
    assert ended.error_message == "cancelled: wrong input"
    assert platform.store.jobs.get(running.job_id).cancel_requested
    assert platform.store.jobs.get(other.job_id).status is JobStatus.QUEUED


def test_batches_go_on_where_the_last_ended_and_leave_what_came_later(
    api: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 3)
    meant = {stored(platform, JobStatus.QUEUED).job_id for _ in range(7)}
    counted = ask(api, action="cancel", q="status:live", dryRun=True)
    late = stored(platform, JobStatus.QUEUED, now=platform.store.clock.now())
    done: list[str] = []
    after: dict[str, str] = {}
    for _ in range(3):
        batch = ask(api, action="cancel", q="status:live", asOf=counted["asOf"], **after)
        done += batch["jobIds"]
        after = {"after": batch["next"]}
    assert batch["next"] is None
    assert sorted(done) == sorted(meant)
    assert platform.store.jobs.get(late.job_id).status is JobStatus.QUEUED


def test_a_retry_keeps_all_inputs_and_is_made_once_however_often_it_is_sent(
    api: FlaskClient, platform: Platform
) -> None:
    failed = stored(platform, JobStatus.FAILED, env={"A": "b"}, labels=["gpu"], priority=7)
    as_of = ask(api, action="retry", q="status:failed", dryRun=True)["asOf"]
    first = ask(api, action="retry", q="status:failed", asOf=as_of)
    again = ask(api, action="retry", q="status:failed", asOf=as_of)
    assert first["jobIds"] == again["jobIds"]
    assert len(statuses(platform)) == 2
    fresh = platform.store.jobs.get(first["jobIds"][0])
    assert fresh.retry_of == failed.job_id
    assert (dict(fresh.env), fresh.labels, fresh.priority) == ({"A": "b"}, ("gpu",), 7)
    assert fresh.status is JobStatus.QUEUED
    later = ask(api, action="retry", q=f"id:{failed.job_id}")
    assert later["jobIds"] != first["jobIds"]


def test_a_job_that_ended_meanwhile_is_skipped(
    api: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (stored(platform, JobStatus.QUEUED) for _ in range(2))
    page = platform.store.queries.page

    def slow(*args: Any, **kwargs: Any) -> Any:
        found = page(*args, **kwargs)
        api.post("/api/jobs/cancel", json={"jobId": first.job_id})
        return found

    monkeypatch.setattr(platform.store.queries, "page", slow)
    answer = ask(api, action="cancel", q="status:live")
    assert (answer["jobIds"], answer["skipped"]) == ([second.job_id], 1)


def test_a_job_that_was_handed_out_meanwhile_is_asked_to_stop(
    api: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [stored(platform, JobStatus.QUEUED) for _ in range(3)]
    page = platform.store.queries.page

    def slow(*args: Any, **kwargs: Any) -> Any:
        found = page(*args, **kwargs)
        at = platform.moment()
        until = at.now + timedelta(seconds=15)
        taken = lifecycle.claim(
            jobs[0], worker=factories.worker(), lease_id="lease-1", at=at, lease_until=until
        )
        assert platform.store.jobs.apply(taken)
        return found

    monkeypatch.setattr(platform.store.queries, "page", slow)
    answer = ask(api, action="cancel", q="status:live", reason="wrong")
    assert set(answer["jobIds"]) == {job.job_id for job in jobs}
    running, *others = (platform.store.jobs.get(job.job_id) for job in jobs)
    assert (running.status, running.cancel_requested) == (JobStatus.RUNNING, True)
    assert [job.status for job in others] == [JobStatus.CANCELLED] * 2


def test_chosen_jobs_alone_are_acted_on(api: FlaskClient, platform: Platform) -> None:
    jobs = [stored(platform, JobStatus.QUEUED) for _ in range(3)]
    chosen = [job.job_id for job in jobs[:2]]
    assert ask(api, action="cancel", jobIds=chosen, dryRun=True)["matched"] == 2
    assert sorted(ask(api, action="cancel", jobIds=[*chosen, "gone"])["jobIds"]) == sorted(chosen)
    assert platform.store.jobs.get(jobs[2].job_id).status is JobStatus.QUEUED


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "cancel"}, "q"),
        ({"action": "cancel", "q": "a", "jobIds": ["b"]}, "q"),
        ({"action": "cancel", "q": "  "}, "q"),
        ({"action": "cancel", "q": "colour:red"}, "q"),
        ({"action": "delete", "q": "a"}, "action"),
        ({"action": "cancel", "jobIds": []}, "jobIds"),
        ({"action": "cancel", "q": "a", "after": "made-up"}, "after"),
        ({"action": "cancel", "q": "a", "asOf": 10**18}, "asOf"),
        ({"action": "cancel", "q": "a", "asOf": 32503680000000}, "asOf"),
        ({"action": "cancel", "q": "created>-999999d", "asOf": 0}, "q"),
    ],
)
def test_what_makes_no_sense_is_422_and_changes_nothing(
    api: FlaskClient, platform: Platform, body: dict[str, Any], field: str
) -> None:
    stored(platform, JobStatus.QUEUED)
    answer = api.post("/api/jobs/bulk", json=body)
    assert answer.status_code == 422, answer.text
    assert [entry["field"] for entry in answer.get_json()["errors"]] == [field]
    assert set(statuses(platform).values()) == {"QUEUED"}


@pytest.mark.parametrize("role", ["viewer", "agent"])
def test_only_operators_act(as_role: As, role: str) -> None:
    body = {"action": "cancel", "q": "status:live", "dryRun": True}
    assert as_role(role).post("/api/jobs/bulk", json=body).status_code == 403


def test_a_job_that_was_asked_to_stop_before_is_skipped(
    api: FlaskClient, platform: Platform
) -> None:
    running = stored(platform, JobStatus.RUNNING)
    first = ask(api, action="cancel", q="status:running", reason="first")
    again = ask(api, action="cancel", q="status:running", reason="second")
    assert (first["jobIds"], first["skipped"]) == ([running.job_id], 0)
    assert (again["jobIds"], again["skipped"]) == ([], 1)
