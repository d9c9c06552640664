"""Routes of jobs as an app uses them."""

from __future__ import annotations

import io
from typing import Any

import marshmallow
import pytest
from flask.testing import FlaskClient
from gunicorn.http import errors as gunicorn_errors

from taskyard.api import job_schemas, representations
from taskyard.context import Platform
from taskyard.jobs.states import JobStatus
from taskyard.store.chunks import Chunk
from tests import factories


def create(api: FlaskClient, **body: Any) -> str:
    answer = api.post("/api/jobs/create", json={"command": "true", **body})
    assert answer.status_code == 201, answer.text
    return str(answer.get_json()["jobId"])


def test_a_created_job_is_answered_with_its_id_and_location(api: FlaskClient) -> None:
    answer = api.post("/api/jobs/create", json={"command": "echo hi"})
    assert answer.status_code == 201
    job_id = answer.get_json()["jobId"]
    assert answer.get_json() == {"success": True, "jobId": job_id, "message": "Job queued"}
    assert answer.headers["Location"] == f"/api/jobs/status?jobId={job_id}"


def test_a_job_has_the_contracts_defaults(api: FlaskClient) -> None:
    status = api.get(f"/api/jobs/status?jobId={create(api)}").get_json()
    expected = {"requiredCpu": 1, "requiredRamMb": 256, "timeoutMs": 300000, "maxRetries": 3}
    assert {name: status[name] for name in expected} == expected


def test_status_has_every_field_of_the_contract(api: FlaskClient) -> None:
    status = api.get(f"/api/jobs/status?jobId={create(api)}").get_json()
    fields = """jobId status assignedAgentId command filename stdout stderr exitCode errorMessage
        resultFileId resultFilename resultFileUrl createdAt queuedAt assignedAt startedAt
        completedAt attempts maxRetries requiredCpu requiredRamMb timeoutMs waitingReason history
        lastStreamedAt outputTruncated"""
    assert [name for name in fields.split() if name not in status] == []


def test_what_was_submitted_in_one_list_is_queued_in_its_order(
    api: FlaskClient, platform: Platform
) -> None:
    body = [{"command": f"echo {number}"} for number in range(20)]
    api.post("/api/jobs/create", json=body)
    queued = platform.store.live.queue(per_shape=20)
    assert [{"command": job.command} for job in queued] == body


def test_a_list_is_newest_first_and_pages_without_gap_or_repeat(api: FlaskClient) -> None:
    body = [{"command": f"echo {n}"} for n in range(7)]
    made = api.post("/api/jobs/create", json=body).get_json()
    seen: list[str] = []
    after = ""
    for _ in range(4):
        page = api.get(f"/api/jobs/list?limit=2{after}").get_json()
        seen += [job["command"] for job in page["jobs"]]
        after = f"&after={page['next']}"
    assert sorted(seen) == sorted(entry["command"] for entry in body)
    assert page["next"] is None
    assert len(made["jobIds"]) == 7


@pytest.mark.parametrize("status", JobStatus)
def test_a_list_has_of_a_job_what_its_schema_says(
    api: FlaskClient, platform: Platform, status: JobStatus
) -> None:
    found = factories.job_in(status)
    platform.store.jobs.submit([found])
    (listed,) = api.get("/api/jobs/list").get_json()["jobs"]
    stored = platform.store.jobs.get(found.job_id)
    shown = representations.job(stored, listed["waitingReason"])
    assert listed == job_schemas.Job().dump(shown)
    assert (listed["waitingReason"] is None) == (status is not JobStatus.QUEUED)


@pytest.mark.parametrize("status", JobStatus)
def test_a_status_has_of_a_job_what_its_schema_says(
    api: FlaskClient, platform: Platform, status: JobStatus
) -> None:
    found = factories.job_in(status, env={"A": "b"}, labels=["gpu"])
    platform.store.jobs.submit([found])
    answer = api.get(f"/api/jobs/status?jobId={found.job_id}").get_json()
    shown = {
        **representations.job(platform.store.jobs.get(found.job_id), answer["waitingReason"]),
        "stdout": "",
        "stderr": "",
        "waiting_workers": answer["waitingWorkers"],
    }
    assert answer == marshmallow.Schema.dump(job_schemas.JobStatusAnswer(), shown)


def test_a_waiting_job_says_why(api: FlaskClient) -> None:
    job_id = create(api)
    status = api.get(f"/api/jobs/status?jobId={job_id}").get_json()
    listed = api.get("/api/jobs/list").get_json()
    assert (
        status["waitingReason"] == listed["jobs"][0]["waitingReason"] == "no worker is registered"
    )


def test_the_same_key_and_body_give_the_same_job(api: FlaskClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = api.post("/api/jobs/create", json={"command": "a"}, headers=headers)
    again = api.post("/api/jobs/create", json={"command": "a"}, headers=headers)
    other = api.post("/api/jobs/create", json={"command": "b"}, headers=headers)
    assert first.get_json() == again.get_json()
    assert other.status_code == 422
    assert api.get("/api/jobs/list").get_json()["count"] == 1


BAD_BODIES: list[tuple[Any, str]] = [
    ({}, "command"),
    ({"command": ""}, "command"),
    ({"command": "   "}, "command"),
    ({"command": 5}, "command"),
    ({"command": {"$where": "1"}}, "command"),
    ({"command": "a\0b"}, "command"),
    ({"command": "a", "unheardOf": 1}, "unheardOf"),
    ({"command": "a", "requiredCpu": -1}, "requiredCpu"),
    ({"command": "a", "requiredCpu": "1"}, "requiredCpu"),
    ({"command": "a", "requiredRamMb": -5}, "requiredRamMb"),
    ({"command": "a", "timeoutMs": 0}, "timeoutMs"),
    ({"command": "a", "timeoutMs": 1.5}, "timeoutMs"),
    ({"command": "a", "maxRetries": True}, "maxRetries"),
    ({"command": "a", "maxRetries": 10**30}, "maxRetries"),
    ({"command": "a", "labels": "x"}, "labels"),
    ({"command": "a", "labels": [{"$gt": ""}]}, "labels.0"),
    ({"command": "a", "labels": ["gpu\n"]}, "labels.0"),
    ({"command": "a", "env": {"A=B": "c"}}, "env.A=B"),
    ({"command": "a", "fileUrl": "file:///etc/passwd"}, "fileUrl"),
    ({"command": "a", "fileUrl": "/api/files/download/gone"}, "fileUrl"),
    ({"command": "a", "fileUrl": "http://[foo"}, "fileUrl"),
    ({"command": "a", "fileUrl": "http://a\u2100b/x"}, "fileUrl"),
    ({"command": "a", "fileUrl": "http://x:99999999/x"}, "fileUrl"),
    ({"command": "a", "fileUrl": "http://x:y/x"}, "fileUrl"),
    ({"command": "a", "fileUrl": "http://:80/x"}, "fileUrl"),
    ({"command": "a", "fileId": "gone"}, "fileId"),
    ([], "jobs"),
    ([{"command": "a"}, {"command": 1}], "jobs.1.command"),
    ([{"command": "a"}, {"command": "a", "fileId": "gone"}], "jobs.1.fileId"),
    ([{"command": "a", "fileUrl": "/api/files/download/gone"}], "jobs.0.fileUrl"),
    ("text", "body"),
]


def test_what_is_told_of_a_job_may_be_submitted_as_it_was_told(api: FlaskClient) -> None:
    names = (
        "command",
        "fileId",
        "fileUrl",
        "filename",
        "requiredCpu",
        "requiredRamMb",
        "timeoutMs",
    )
    told = api.post("/api/jobs/create", json={"command": "a"}).headers["Location"]
    body = {name: api.get(told).get_json()[name] for name in names}
    answer = api.post("/api/jobs/create", json=body)
    assert answer.status_code == 201, answer.text
    again = api.get(answer.headers["Location"]).get_json()
    assert {name: again[name] for name in names} == body


def test_scheme_and_host_of_an_address_may_be_in_capitals(api: FlaskClient) -> None:
    elsewhere = "HTTPS://Files.Example/p.zip"
    answer = api.post("/api/jobs/create", json={"command": "a", "fileUrl": elsewhere})
    job = api.get(answer.headers["Location"]).get_json()
    assert job["fileUrl"] == elsewhere
    # Our own address stands for the file, which the agent needs no token for; this one is gone.
    body = {"command": "a", "fileUrl": "http://LOCALHOST/api/files/download/gone"}
    answer = api.post("/api/jobs/create", json=body)
    assert (answer.status_code, answer.get_json()["errors"][0]["field"]) == (422, "fileUrl")


@pytest.mark.parametrize(("body", "field"), BAD_BODIES, ids=lambda value: str(value)[:40])
def test_a_body_that_makes_no_sense_is_422_and_names_the_field(
    api: FlaskClient, body: Any, field: str
) -> None:
    answer = api.post("/api/jobs/create", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.mimetype == "application/problem+json"
    assert [entry["field"] for entry in answer.get_json()["errors"]] == [field]
    assert answer.get_json()["error"] == answer.get_json()["detail"]
    assert api.get("/api/jobs/list").get_json()["count"] == 0


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"command": NaN}', b"[" * 100_000])
def test_a_body_that_cannot_be_read_is_400(api: FlaskClient, body: bytes) -> None:
    answer = api.post("/api/jobs/create", data=body, content_type="application/json")
    assert answer.status_code == 400


class BrokenBody(io.RawIOBase):
    """A chunked body, as gunicorn passes it on, in which gunicorn finds a mistake on reading."""

    def __init__(self, mistake: Exception) -> None:
        self.mistake = mistake

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> int:
        raise self.mistake


@pytest.mark.parametrize(
    "mistake",
    [
        gunicorn_errors.InvalidChunkSize(b"zz"),
        gunicorn_errors.ChunkMissingTerminator(b"xx"),
        gunicorn_errors.InvalidHeader("bare LF"),
        gunicorn_errors.LimitRequestHeaders("trailers"),
        gunicorn_errors.NoMoreData(),
    ],
    ids=lambda mistake: type(mistake).__name__,
)
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/jobs/create", "application/json"),
        ("/sign-in", "application/x-www-form-urlencoded"),
        ("/api/execute", "multipart/form-data; boundary=b"),
    ],
)
def test_a_body_whose_chunks_are_broken_is_400(
    api: FlaskClient, path: str, kind: str, mistake: Exception
) -> None:
    chunked = {
        "wsgi.input": BrokenBody(mistake),
        "wsgi.input_terminated": True,
        "CONTENT_LENGTH": "",
    }
    answer = api.post(path, content_type=kind, environ_overrides=chunked)
    assert answer.status_code == 400, answer.text
    is_page = path == "/sign-in"
    assert answer.mimetype == ("text/html" if is_page else "application/problem+json")


def test_a_body_that_is_no_json_is_400(api: FlaskClient) -> None:
    assert api.post("/api/jobs/create", data=b"command=a").status_code == 400


def test_a_body_that_is_too_large_is_413(api: FlaskClient, platform: Platform) -> None:
    body = b'{"command": "' + b"a" * platform.settings.body_cap_bytes + b'"}'
    answer = api.post("/api/jobs/create", data=body, content_type="application/json")
    assert answer.status_code == 413


BAD_QUERIES = [
    ("limit=0", "limit"),
    ("limit=201", "limit"),
    ("limit=x", "limit"),
    ("after=made-up", "after"),
    ("status=GONE", "status.0"),
    ("unknown=1", "unknown"),
    ("worker=a&worker=b", "worker"),
    ("createdAfter=99999999999999999999", "createdAfter"),
]


@pytest.mark.parametrize(("query", "field"), BAD_QUERIES)
def test_a_query_that_makes_no_sense_is_422_and_names_the_field(
    api: FlaskClient, query: str, field: str
) -> None:
    answer = api.get(f"/api/jobs/list?{query}")
    assert answer.status_code == 422, answer.text
    assert [entry["field"] for entry in answer.get_json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/jobs/status?jobId=gone"),
        ("GET", "/api/jobs/status?jobId[$ne]=x&jobId=gone"),
        ("GET", "/api/jobs/output?jobId=gone"),
        ("GET", "/api/jobs/events?jobId=gone"),
        ("GET", "/api/jobs/check-cancel?jobId=gone"),
        ("GET", "/api/jobs/get-job?workerId=gone"),
        ("GET", "/api/files/download/gone"),
        ("GET", "/api/nothing"),
        ("GET", "/jobs/gone"),
    ],
)
def test_what_is_not_there_is_404(api: FlaskClient, method: str, path: str) -> None:
    answer = api.open(path, method=method)
    assert answer.status_code in (404, 422) if "$ne" in path else answer.status_code == 404


@pytest.mark.parametrize("path", ["cancel", "retry"])
def test_an_operator_object_where_an_id_belongs_is_422(api: FlaskClient, path: str) -> None:
    job_id = create(api)
    answer = api.post(f"/api/jobs/{path}", json={"jobId": {"$ne": None}})
    assert answer.status_code == 422
    assert api.get(f"/api/jobs/status?jobId={job_id}").get_json()["status"] == "QUEUED"


def test_a_queued_job_is_cancelled_at_once_and_only_once(api: FlaskClient) -> None:
    job_id = create(api)
    first = api.post("/api/jobs/cancel", json={"jobId": job_id, "reason": "not needed"})
    again = api.post("/api/jobs/cancel", json={"jobId": job_id})
    status = api.get(f"/api/jobs/status?jobId={job_id}").get_json()
    assert (first.status_code, again.status_code) == (200, 409)
    assert status["status"] == "CANCELLED"
    assert "not needed" in status["errorMessage"]


def test_a_running_job_stays_as_it_was_asked_to_be_cancelled_first(
    api: FlaskClient, platform: Platform
) -> None:
    job = factories.running_job(now=platform.store.clock.now())
    platform.store.jobs.submit([job])
    for reason in ("first", "second"):
        body = {"jobId": job.job_id, "reason": reason}
        assert api.post("/api/jobs/cancel", json=body).status_code == 200
    asked = platform.store.jobs.get(job.job_id)
    assert asked.cancel is not None
    assert asked.cancel["reason"] == "first"
    assert [entry["verb"] for entry in asked.history].count("cancel") == 1


def test_an_ended_job_is_retried_as_a_new_job_with_the_same_inputs(api: FlaskClient) -> None:
    job_id = create(api, labels=["gpu"], env={"A": "b"}, requiredCpu=0.5)
    assert api.post("/api/jobs/retry", json={"jobId": job_id}).status_code == 409
    api.post("/api/jobs/cancel", json={"jobId": job_id})
    answer = api.post("/api/jobs/retry", json={"jobId": job_id})
    assert answer.status_code == 201
    fresh = api.get(f"/api/jobs/status?jobId={answer.get_json()['jobId']}").get_json()
    assert (fresh["status"], fresh["retryOf"], fresh["labels"]) == ("QUEUED", job_id, ["gpu"])


def test_a_retry_with_the_same_key_is_the_same_job(api: FlaskClient) -> None:
    ended = [create(api), create(api)]
    for job_id in ended:
        api.post("/api/jobs/cancel", json={"jobId": job_id})
    headers = {"Idempotency-Key": "k1"}
    first, again, other = (
        api.post("/api/jobs/retry", json={"jobId": job_id}, headers=headers)
        for job_id in (ended[0], ended[0], ended[1])
    )
    assert first.status_code == 201
    assert (again.status_code, again.get_json()) == (201, first.get_json())
    assert other.status_code == 422
    body = {"command": "true"}
    assert api.post("/api/jobs/create", json=body, headers=headers).status_code == 422
    assert api.get("/api/jobs/list").get_json()["count"] == 3


def test_filters_narrow_the_list(api: FlaskClient) -> None:
    create(api, command="alpha", labels=["gpu"])
    cancelled = create(api, command="beta")
    api.post("/api/jobs/cancel", json={"jobId": cancelled})

    def listed(query: str) -> list[str]:
        page = api.get(f"/api/jobs/list?{query}").get_json()
        return [job["command"] for job in page["jobs"]]

    assert listed("status=QUEUED") == ["alpha"]
    assert listed("status=QUEUED&status=CANCELLED") == ["beta", "alpha"]
    assert listed("label=gpu") == ["alpha"]
    assert listed("text=ALP") == ["alpha"]
    assert listed("text=.*") == []
    assert listed("createdBefore=1") == []
    assert listed("createdAfter=1") == ["beta", "alpha"]
    assert listed("worker=w1") == []
    assert listed("status=QUEUED&q=command:beta") == []
    assert listed("status=CANCELLED&q=command:beta&label=gpu") == []
    assert listed("status=CANCELLED&q=command:beta&createdAfter=1") == ["beta"]


def test_a_long_poll_is_answered_as_soon_as_the_job_ends(
    api: FlaskClient, platform: Platform
) -> None:
    ended = factories.job_in(JobStatus.COMPLETED, now=platform.store.clock.now())
    platform.store.jobs.submit([ended])
    answer = api.get(f"/api/jobs/status?jobId={ended.job_id}&wait=30")
    assert answer.get_json()["status"] == "COMPLETED"


@pytest.mark.parametrize(("query", "text"), [("", "onetwo"), ("&stream=stderr", "two")])
def test_output_is_given_as_text(
    api: FlaskClient, platform: Platform, query: str, text: str
) -> None:
    job = factories.job_in(JobStatus.COMPLETED, now=platform.store.clock.now())
    platform.store.jobs.submit([job])
    chunks = [Chunk(seq=0, stream="stdout", data="one"), Chunk(seq=1, stream="stderr", data="two")]
    platform.store.output.store(job.job_id, 1, chunks, now=platform.store.clock.now())
    assert api.get(f"/api/jobs/output?jobId={job.job_id}{query}").text == text
