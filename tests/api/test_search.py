"""The search language in the API."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from taskyard.context import Platform
from taskyard.jobs.states import JobStatus
from taskyard.store import queries, searches
from tests import factories


@pytest.fixture
def three(platform: Platform) -> list[str]:
    """A failed, a completed and an old queued job."""
    now = platform.store.clock.now()
    jobs = [
        factories.job_in(JobStatus.FAILED, now=now, command="pytest -q", labels=["gpu"]),
        factories.job_in(JobStatus.COMPLETED, now=now, command="pytest -q"),
        factories.queued_job(now=now - timedelta(hours=2)),
    ]
    platform.store.jobs.submit(jobs)
    return [job.job_id for job in jobs]


def ask(api: FlaskClient, path: str = "list", **query: object) -> dict[str, object]:
    answer = api.get(f"/api/jobs/{path}", query_string=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def test_a_list_is_searched(api: FlaskClient, three: list[str]) -> None:
    page = ask(api, q="status:failed worker:w1 label:gpu pytest created>-1h")
    assert [job["jobId"] for job in page["jobs"]] == three[:1]  # type: ignore[attr-defined]
    assert page["lookedBackTo"] is None
    assert ask(api, q="created>-1h", status="COMPLETED")["count"] == 1
    assert ask(api, q="")["count"] == 3
    assert ask(api, q="created:9999-12-31")["count"] == 0


def test_states_are_counted(api: FlaskClient, three: list[str]) -> None:
    counts = {"QUEUED": 1, "FAILED": 1, "COMPLETED": 1} | dict.fromkeys(
        ("ASSIGNED", "RUNNING", "CANCELLED"), 0
    )
    assert ask(api, "counts") == {"counts": counts, "more": [], "total": 3}
    narrower = ask(api, "counts", q="pytest", worker="w1")
    assert narrower["total"] == 2


def test_a_page_that_stopped_looking_says_how_far_back(
    api: FlaskClient, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "LOOKED_AT", 2)
    monkeypatch.setattr(queries, "LOOKED_AT", 2)
    page = ask(api, q="-pytest")
    assert page["count"] == 0
    assert isinstance(page["lookedBackTo"], int)
    rest = ask(api, q="-pytest", after=page["next"])
    assert [job["jobId"] for job in rest["jobs"]] == three[2:]  # type: ignore[attr-defined]
    assert rest["next"] is None


@pytest.mark.parametrize("path", ["list", "counts"])
@pytest.mark.parametrize("q", ["colour:red", "status:gone", '"open', "created>soon", "x" * 1001])
def test_a_search_that_makes_no_sense_is_422_and_names_q(
    api: FlaskClient, path: str, q: str
) -> None:
    answer = api.get(f"/api/jobs/{path}", query_string={"q": q})
    assert answer.status_code == 422, answer.text
    assert [entry["field"] for entry in answer.get_json()["errors"]] == ["q"]
