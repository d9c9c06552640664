"""Following a job: events that resume, and direct execution."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from flask.testing import FlaskClient

from taskyard.api import events as events_module
from taskyard.context import Platform
from taskyard.errors import StoreUnavailable
from taskyard.store import feed as feed_module
from taskyard.store.tokens import Role, Token
from tests.api.agents import HttpAgent, status_of, submit_job
from tests.api.conftest import As


def events(
    api: FlaskClient, job_id: str, last: str | None = None, **query: int
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the events as (name, id, data), one by one as they come."""
    headers = {"Last-Event-ID": last} if last else {}
    asked = {"jobId": job_id, **query}
    answer = api.get("/api/jobs/events", query_string=asked, headers=headers)
    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    for part in answer.response:
        for block in filter(None, _text(part).split("\n\n")):
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            if "event" in fields:
                yield fields["event"], fields["id"], json.loads(fields["data"])


def until(stream: Iterator[tuple[str, str, dict[str, Any]]], name: str) -> tuple[str, Any]:
    for event, identity, data in stream:
        if event == name:
            return identity, data
    raise AssertionError(f"the stream ended without {name}")


def test_a_follower_sees_state_output_and_end_as_they_come(
    api: FlaskClient, agent: HttpAgent
) -> None:
    job_id = submit_job(api)
    stream = events(api, job_id)
    assert until(stream, "state")[1]["status"] == "QUEUED"
    agent.poll()
    assert until(stream, "state")[1]["status"] == "RUNNING"
    agent.stream("one\n")
    assert until(stream, "stdout")[1]["data"] == "one\n"
    agent.stream("two\n", type="stderr")
    assert until(stream, "stderr")[1]["data"] == "two\n"
    agent.submit(3, stdout=None, stderr=None)
    end = until(stream, "end")[1]
    assert (end["status"], end["exitCode"]) == ("FAILED", 3)
    assert list(stream) == []


def test_followers_hear_why_their_jobs_wait_by_one_look_at_the_workers(
    api: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [submit_job(api) for _ in range(3)]
    workers = platform.store.workers
    monkeypatch.setattr(workers, "listed", listed := Mock(wraps=workers.listed))
    told = []
    for job_id, shared_seconds in zip(jobs, (0.0, 60.0, 60.0), strict=True):
        monkeypatch.setattr(feed_module, "SHARED_SECONDS", shared_seconds)
        told.append(until(events(api, job_id), "state")[1]["waitingReason"])
    assert told == ["no worker is registered"] * 3
    assert listed.call_count == 1


def test_a_follower_that_comes_back_misses_nothing_and_sees_nothing_twice(
    api: FlaskClient, agent: HttpAgent
) -> None:
    job_id = submit_job(api)
    agent.poll()
    for text in ("a", "b", "c"):
        agent.stream(text)
    stream = events(api, job_id)
    until(stream, "stdout")
    identity, data = until(stream, "stdout")
    assert data["data"] == "b"
    agent.submit(0, stdout=None, stderr=None)
    rest = list(events(api, job_id, last=identity))
    assert [data["data"] for name, _, data in rest if name == "stdout"] == ["c"]
    assert rest[-1][0] == "end"


def test_a_whole_text_that_replaces_the_stream_is_told_once(
    api: FlaskClient, agent: HttpAgent
) -> None:
    job_id = submit_job(api)
    agent.poll()
    stream = events(api, job_id)
    agent.stream("part ")
    assert until(stream, "stdout")[1]["data"] == "part "
    agent.submit(0, stdout="part and whole")
    text = [data["data"] for name, _, data in stream if name == "stdout"]
    assert "".join(text) == "and whole"


def test_a_whole_text_that_begins_otherwise_replaces_what_was_told(
    api: FlaskClient, agent: HttpAgent
) -> None:
    job_id = submit_job(api)
    agent.poll()
    stream = events(api, job_id)
    agent.stream("progress 10%\n")
    until(stream, "stdout")
    agent.submit(0, stdout="RESULT=42\nEND OF FILE\n")
    told = [(name, data.get("data")) for name, _, data in stream if name in ("stdout", "reset")]
    assert told == [("reset", None), ("stdout", "RESULT=42\nEND OF FILE\n")]


def test_who_comes_back_to_a_replaced_text_gets_all_of_it(
    api: FlaskClient, agent: HttpAgent
) -> None:
    job_id = submit_job(api)
    agent.poll()
    for line in ("one\n", "two\n"):
        agent.stream(line)
    identity, _ = until(events(api, job_id), "stdout")
    stream = events(api, job_id, last=identity)
    assert until(stream, "stdout")[1]["data"] == "two\n"
    agent.submit(0, stdout="one\ntwo\nthree\n")
    told = [(name, data.get("data")) for name, _, data in stream if name in ("stdout", "reset")]
    assert told == [("reset", None), ("stdout", "one\ntwo\nthree\n")]


def test_an_event_id_of_the_largest_seq_is_one_of_ours(api: FlaskClient, agent: HttpAgent) -> None:
    job_id = submit_job(api)
    agent.poll()
    agent.stream("late", seq=2**53)
    identity, _ = until(events(api, job_id), "stdout")
    agent.submit(0, stdout=None, stderr=None)
    assert [name for name, _, _ in events(api, job_id, last=identity)] == ["end"]


def test_a_new_attempt_starts_the_text_anew(
    api: FlaskClient, agent: HttpAgent, let_pass: Callable[[float], None]
) -> None:
    job_id = submit_job(api)
    agent.poll()
    agent.stream("first try")
    stream = events(api, job_id)
    until(stream, "stdout")
    agent.fail("disk full")
    agent.register()
    agent.poll()
    agent.stream("second try")
    _, data = until(stream, "stdout")
    assert (data["attempt"], data["data"]) == (2, "second try")


def test_an_attempt_that_is_over_is_read_to_its_end(api: FlaskClient, agent: HttpAgent) -> None:
    """Even while the next attempt runs, and from where a reader left off."""
    job_id = submit_job(api)
    agent.poll()
    for text, stream in (("first ", "stdout"), ("oops", "stderr"), ("try", "stdout")):
        agent.stream(text, type=stream)
    agent.fail("disk full")
    agent.register()
    agent.poll()
    agent.stream("second")
    told = list(events(api, job_id, attempt=1))
    printed = [(name, data["data"]) for name, _, data in told if "data" in data]
    assert printed == [("stdout", "first "), ("stderr", "oops"), ("stdout", "try")]
    assert [(told[-1][0], told[-1][2]["status"])] == [("end", "RUNNING")]
    rest = list(events(api, job_id, told[1][1], attempt=1))
    assert [data.get("data") for _, _, data in rest] == ["try", None]
    assert until(events(api, job_id, attempt=2), "stdout")[1]["data"] == "second"


@pytest.mark.parametrize("streamed", ["", "whole"])
def test_what_an_earlier_attempt_told_with_its_result_is_read_like_what_it_streamed(
    api: FlaskClient, agent: HttpAgent, streamed: str
) -> None:
    job_id = submit_job(api, retryOnExit=True)
    agent.poll()
    if streamed:
        agent.stream(streamed)
    agent.submit(3, stdout="whole text", stderr="why")
    agent.register()
    assert agent.poll().status_code == 200
    told = list(events(api, job_id, attempt=1))
    printed = [(name, data["data"]) for name, _, data in told if "data" in data]
    assert printed == [("stdout", "whole text"), ("stderr", "why")]
    text = api.get(f"/api/jobs/output?jobId={job_id}&attempt=1").text
    assert "whole text" in text
    assert api.get(f"/api/jobs/output?jobId={job_id}").text == ""


def test_a_made_up_event_id_is_422(api: FlaskClient) -> None:
    job_id = submit_job(api)
    answer = api.get(f"/api/jobs/events?jobId={job_id}", headers={"Last-Event-ID": "x'; drop"})
    assert answer.status_code == 422


def _text(piece: str | bytes) -> str:
    return piece if isinstance(piece, str) else piece.decode()


def zipped() -> io.BytesIO:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.txt", "hello")
    target.seek(0)
    return target


def test_distributed_execution_queues_a_job_for_the_upload(
    api: FlaskClient, agent: HttpAgent
) -> None:
    archive = zipped()
    sent = archive.getvalue()
    form = {"file": (archive, "a.zip"), "commands": "cat a.txt", "mode": "distributed"}
    answer = api.post("/api/execute", data=form)
    body = answer.get_json()
    assert answer.status_code == 200
    assert answer.headers["X-Job-Id"] == body["jobId"]
    assert body["success"] is True
    assert body["mode"] == "distributed"
    assert api.get(body["checkStatusUrl"]).get_json()["status"] == "QUEUED"
    job = agent.poll().get_json()["job"]
    assert job["filename"] == "a.zip"
    assert api.get(job["fileUrl"]).data == sent


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/api/execute", {"data": {"commands": "make\r\nmake test\r\n", "mode": "distributed"}}),
        ("/api/jobs/create", {"json": {"command": "make\r\nmake test\r\n"}}),
    ],
)
def test_an_agent_is_handed_lines_as_a_shell_knows_them(
    api: FlaskClient, agent: HttpAgent, path: str, sent: dict[str, Any]
) -> None:
    """Browsers and Node send a form's lines with CR and LF, however they were written."""
    assert api.post(path, **sent).status_code in (200, 201)
    assert agent.poll().get_json()["job"]["command"] == "make\nmake test\n"


def test_a_token_that_is_revoked_follows_no_longer(
    api: FlaskClient, as_role: As, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "ADMITTED_SECONDS", 0.0)
    job_id = submit_job(api)
    stream = events(as_role("viewer"), job_id)
    assert until(stream, "state")[1]["status"] == "QUEUED"
    for token in platform.store.tokens.list():
        if token.role is Role.VIEWER:
            platform.store.tokens.revoke(token.id)
    assert [name for name, _, _ in stream if name == "end"] == []
    assert status_of(api, job_id)["status"] == "QUEUED"


def test_a_follower_is_not_sent_away_while_nobody_can_tell_whether_its_token_holds(
    api: FlaskClient, agent: HttpAgent, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "ADMITTED_SECONDS", 0.0)
    job_id = submit_job(api)
    stream = events(api, job_id)
    assert until(stream, "state")[1]["status"] == "QUEUED"
    agent.poll()
    agent.submit(0, stdout=None, stderr=None)
    asked: list[str] = []

    def away(token: str) -> Token | None:
        asked.append(token)
        raise StoreUnavailable("no primary")

    monkeypatch.setattr(platform.store.tokens, "verify", away)
    assert until(stream, "end")[1]["status"] == "COMPLETED"
    assert asked


def test_direct_execution_streams_the_output(api: FlaskClient, agent: HttpAgent) -> None:
    answer = api.post("/api/execute", data={"file": (zipped(), "a.zip"), "commands": "cat a.txt"})
    assert answer.status_code == 200
    assert answer.headers["X-Exec-Id"]
    pieces = (_text(piece) for piece in answer.response)
    agent.poll()
    agent.stream("hello")
    text = ""
    while text != "hello":
        text += next(pieces)
    agent.submit(2, stdout=None, stderr=None)
    assert "FAILED" in "".join(pieces)


def test_direct_execution_is_stopped_by_delete(api: FlaskClient, agent: HttpAgent) -> None:
    answer = api.post("/api/execute", data={"commands": "sleep 100"})
    exec_id = answer.headers["X-Exec-Id"]
    assert api.delete("/api/execute", json={"execId": exec_id}).get_json() == {"stopped": True}
    assert api.delete("/api/execute", json={"execId": exec_id}).get_json() == {"stopped": False}
    assert api.delete("/api/execute", json={"execId": "gone"}).status_code == 404
    assert "CANCELLED" in answer.text


def test_a_client_that_goes_away_cancels_its_direct_execution(
    api: FlaskClient, agent: HttpAgent
) -> None:
    answer = api.post("/api/execute", data={"commands": "sleep 100"})
    next(iter(answer.response))
    answer.close()
    assert status_of(api, answer.headers["X-Exec-Id"])["status"] == "CANCELLED"


@pytest.mark.parametrize(
    ("form", "status", "field"),
    [
        ({"commands": "true", "file": (io.BytesIO(b""), "a.zip")}, 400, "file"),
        ({"commands": "true", "file": (io.BytesIO(b"no zip"), "a.zip")}, 400, "file"),
        ({"commands": ""}, 422, "commands"),
        ({}, 422, "commands"),
        ({"commands": "true", "mode": "sideways"}, 422, "mode"),
    ],
)
def test_bad_executions_name_the_field_and_queue_nothing(
    api: FlaskClient, form: dict[str, Any], status: int, field: str
) -> None:
    answer = api.post("/api/execute", data=form)
    assert answer.status_code == status, answer.text
    assert [entry["field"] for entry in answer.get_json()["errors"]] == [field]
    assert api.get("/api/jobs/list").get_json()["count"] == 0
