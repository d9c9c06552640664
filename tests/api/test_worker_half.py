"""The worker half: what an HTTP agent of any language gets and may do."""

from __future__ import annotations

import base64
import io
import json
import threading
import zipfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from taskyard import operations
from taskyard.api.app import create_app
from taskyard.context import Platform
from taskyard.errors import StoreUnavailable
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.states import JobStatus
from taskyard.scheduler import polling
from taskyard.store.jobs import JobStore
from taskyard.store.live import LiveJobs
from taskyard.workers.model import NOTHING
from tests import factories
from tests.api.agents import HttpAgent, client_with_token, registered, status_of, submit_job
from tests.api.conftest import As
from tests.conftest import Racing


def zipped(**files: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return target.getvalue()


@pytest.fixture
def running(api: FlaskClient, agent: HttpAgent) -> HttpAgent:
    """An agent that runs a job."""
    submit_job(api)
    assert agent.poll().status_code == 200
    return agent


def test_an_agent_takes_a_job_and_the_job_ends_completed(
    api: FlaskClient, agent: HttpAgent
) -> None:
    job_id = submit_job(api, command="echo hi", env={"A": "b"})
    job = agent.poll().get_json()["job"]
    assert (job["jobId"], job["command"], job["attempt"]) == (job_id, "echo hi", 1)
    assert status_of(api, job_id)["status"] == "RUNNING"
    assert agent.stream("hi\n").get_json()["success"] is True
    assert status_of(api, job_id)["stdout"] == "hi\n"
    assert agent.submit(0, stdout="hi\n").status_code == 200
    ended = status_of(api, job_id)
    assert (ended["status"], ended["exitCode"], ended["stdout"]) == ("COMPLETED", 0, "hi\n")


def test_no_job_is_202_with_job_null(agent: HttpAgent) -> None:
    answer = agent.poll()
    assert answer.status_code == 202
    assert answer.get_json()["success"] is False
    assert answer.get_json()["job"] is None


def test_agents_may_poll_by_get(api: FlaskClient, agent: HttpAgent) -> None:
    job_id = submit_job(api)
    answer = api.get("/api/jobs/get-job?workerId=w1")
    assert answer.get_json()["job"]["jobId"] == job_id


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ({"workerId": "w1"}, {}),
        ({"workerId": "w1", "cpuUsage": "5"}, {"json": {}}),
        ({"workerId": "w1"}, {"json": {"status": "IDLE"}}),
        ({"workerId": "w2"}, {"json": {"workerId": "w1"}}),
    ],
)
def test_who_polls_may_be_named_in_the_query(
    api: FlaskClient, agent: HttpAgent, query: dict[str, str], body: dict[str, Any]
) -> None:
    job_id = submit_job(api)
    answer = api.post("/api/jobs/get-job", query_string=query, **body)
    assert answer.get_json()["job"]["jobId"] == job_id
    assert status_of(api, job_id)["assignedAgentId"] == "w1"


@pytest.mark.parametrize(
    ("body", "status"), [({}, 422), ({"json": []}, 422), ({"data": "w1"}, 400)]
)
def test_a_poll_that_names_nobody_is_refused(
    api: FlaskClient, body: dict[str, Any], status: int
) -> None:
    assert api.post("/api/jobs/get-job", **body).status_code == status


def test_a_poll_whose_answer_has_no_body_takes_no_job(api: FlaskClient, agent: HttpAgent) -> None:
    job_id = submit_job(api)
    answer = agent.client.head("/api/jobs/get-job?workerId=w1")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")
    assert status_of(api, job_id)["status"] == "QUEUED"


def test_a_worker_that_is_not_known_gets_no_job(api: FlaskClient) -> None:
    assert HttpAgent(api, "stranger").poll().status_code == 404


def test_a_repeated_poll_after_a_lost_answer_gives_the_same_job_and_lease(
    api: FlaskClient, agent: HttpAgent
) -> None:
    submit_job(api)
    submit_job(api)
    first, again = agent.poll().get_json(), agent.poll().get_json()
    assert first["job"] == again["job"]


def test_a_poll_reads_no_more_of_the_queue_than_it_has_to(
    platform: Platform, agent: HttpAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Job] = []
    first = LiveJobs.first

    def noted(self: LiveJobs, shapes: Sequence[str], limit: int) -> list[Job]:
        found = first(self, shapes, limit)
        read.extend(found)
        return found

    monkeypatch.setattr(LiveJobs, "first", noted)
    now = platform.store.clock.now()
    kinds = [factories.queued_job(now=now, required_ram_mb=mb) for mb in (1, 2, 3) for _ in "12345"]
    platform.store.jobs.submit(kinds)
    assert agent.poll().get_json()["job"]["jobId"] == kinds[0].job_id
    assert [job.job_id for job in read] == [kinds[0].job_id]


def test_two_workers_that_poll_at_once_never_get_the_same_job(
    api: FlaskClient, platform: Platform
) -> None:
    for _ in range(10):
        submit_job(api)
    app, taken, lock = create_app(platform), [], threading.Lock()
    headers = {"HTTP_AUTHORIZATION": api.environ_base["HTTP_AUTHORIZATION"]}
    barrier = threading.Barrier(10)

    def poll(number: int) -> None:
        client = app.test_client()
        client.environ_base.update(headers)
        agent = HttpAgent(client, f"w{number}")
        agent.register()
        barrier.wait()
        while agent.poll().status_code != 200:
            pass
        with lock:
            taken.append(agent.job["jobId"])

    threads = [threading.Thread(target=poll, args=[n]) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 10


def test_one_worker_that_polls_many_times_at_once_is_never_overcommitted(
    api: FlaskClient, platform: Platform, agent: HttpAgent, racing: Racing
) -> None:
    for _ in range(20):
        submit_job(api, requiredCpu=3)
    app = create_app(platform)
    headers = {"HTTP_AUTHORIZATION": api.environ_base["HTTP_AUTHORIZATION"]}

    def poll() -> int:
        client = app.test_client()
        client.environ_base.update(headers)
        return HttpAgent(client, agent.worker_id).poll().status_code

    for _ in range(3):
        racing(poll, 8)
        usage = platform.store.live.usage([agent.worker_id])
        assert usage.get(agent.worker_id, NOTHING).cpu <= 4


def test_a_job_that_does_not_fit_is_not_handed_out(api: FlaskClient, agent: HttpAgent) -> None:
    job_id = submit_job(api, requiredCpu=64)
    assert agent.poll().status_code == 202
    assert "larger than every worker" in status_of(api, job_id)["waitingReason"]


@pytest.mark.parametrize(("exit_code", "status"), [(0, "COMPLETED"), (3, "FAILED"), (-9, "FAILED")])
def test_the_exit_code_decides_how_the_job_ends(
    api: FlaskClient, running: HttpAgent, exit_code: int, status: str
) -> None:
    running.submit(exit_code)
    ended = status_of(api, running.job["jobId"])
    assert (ended["status"], ended["exitCode"]) == (status, exit_code)


def test_the_text_of_the_result_replaces_what_was_streamed(
    api: FlaskClient, running: HttpAgent
) -> None:
    running.stream("partial")
    running.submit(0, stdout="the whole", stderr="and this")
    ended = status_of(api, running.job["jobId"])
    assert (ended["stdout"], ended["stderr"]) == ("the whole", "and this")


@pytest.mark.parametrize("given", ["stdout", "stderr"])
def test_a_stream_that_the_result_does_not_have_keeps_what_was_streamed(
    api: FlaskClient, running: HttpAgent, given: str
) -> None:
    running.stream("streamed", type="stdout")
    running.stream("warned", type="stderr")
    running.submit(0, **{"stdout": None, "stderr": None, given: "whole"})
    ended = status_of(api, running.job["jobId"])
    expected = {"stdout": "streamed", "stderr": "warned", given: "whole"}
    assert {name: ended[name] for name in expected} == expected


def test_a_failure_is_recorded_whatever_its_message_has(
    api: FlaskClient, running: HttpAgent
) -> None:
    assert running.fail("half \ud83d and \0").status_code == 200
    assert "half \ufffd and \0" in status_of(api, running.job["jobId"])["errorMessage"]


def test_output_is_kept_whatever_a_command_printed(api: FlaskClient, running: HttpAgent) -> None:
    assert running.stream("a\0b\n").status_code == 200
    assert running.stream("half \ud83d", type="stderr").status_code == 200
    status = status_of(api, running.job["jobId"])
    assert (status["stdout"], status["stderr"]) == ("a\0b\n", "half \ufffd")
    assert running.submit(0, stdout="x\0y", stderr=None).status_code == 200
    assert status_of(api, running.job["jobId"])["stdout"] == "x\0y"


@pytest.mark.parametrize("other", [{"data": "b"}, {"type": "stderr"}])
def test_another_chunk_of_the_same_seq_is_422_and_names_it(
    api: FlaskClient, running: HttpAgent, other: dict[str, str]
) -> None:
    assert running.stream("a", seq=0).status_code == 200
    answer = running.stream(**{"data": "a", **other}, seq=0)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.get_json()["errors"]] == ["seq"]
    status = status_of(api, running.job["jobId"])
    assert (status["stdout"], status["stderr"], status["outputBytes"]) == ("a", "", 1)


def test_a_chunk_too_large_for_one_document_is_422_and_counts_nothing(
    api: FlaskClient, running: HttpAgent
) -> None:
    chunk = {"jobId": running.job["jobId"], "type": "stdout", "data": "\U0001f600" * 4 * 2**20}
    answer = api.post(
        "/api/jobs/stream-output",
        data=json.dumps(chunk, ensure_ascii=False).encode(),
        content_type="application/json",
    )
    assert answer.status_code == 422
    assert [error["field"] for error in answer.get_json()["errors"]] == ["data"]
    assert status_of(api, running.job["jobId"])["outputBytes"] == 0


def test_status_carries_a_mebibyte_of_a_stream_at_most(
    api: FlaskClient, running: HttpAgent
) -> None:
    running.stream("ä" * 2**20)
    assert len(status_of(api, running.job["jobId"])["stdout"].encode()) == 2**20


def test_chunks_keep_their_order_and_one_with_a_seq_counts_once(
    api: FlaskClient, running: HttpAgent
) -> None:
    for seq, text in [(0, "a"), (1, "b"), (1, "b"), (2, "c")]:
        assert running.stream(text, seq=seq).status_code == 200
    running.stream("oops", type="stderr", seq=3)
    status = status_of(api, running.job["jobId"])
    assert (status["stdout"], status["stderr"]) == ("abc", "oops")
    assert status["lastStreamedAt"] is not None


def test_the_same_result_twice_is_answered_200_both_times(
    api: FlaskClient, running: HttpAgent
) -> None:
    assert [running.submit(0).status_code for _ in range(2)] == [200, 200]
    verbs = [entry["verb"] for entry in status_of(api, running.job["jobId"])["history"]]
    assert verbs.count("complete") == 1


def test_a_result_archive_is_stored_and_can_be_fetched(
    api: FlaskClient, running: HttpAgent
) -> None:
    content = zipped(report="fine")
    running.submit(
        0, resultZipBase64=base64.b64encode(content).decode(), resultZipName="result.zip"
    )
    ended = status_of(api, running.job["jobId"])
    assert ended["resultFilename"] == "result.zip"
    assert api.get(ended["resultFileUrl"]).data == content


def test_the_archive_of_a_result_that_is_sent_again_is_not_stored_again(
    platform: Platform, running: HttpAgent
) -> None:
    content = base64.b64encode(zipped(report="fine")).decode()
    assert [running.submit(0, resultZipBase64=content).status_code for _ in range(2)] == [200, 200]
    assert platform.store.database["files.files"].count_documents({}) == 1


def test_a_larger_archive_goes_up_as_multipart(api: FlaskClient, running: HttpAgent) -> None:
    content = zipped(report="fine")
    answer = api.post(
        "/api/jobs/submit-result",
        data={
            "jobId": running.job["jobId"],
            "workerId": "w1",
            "exitCode": "0",
            "file": (io.BytesIO(content), "all.zip"),
        },
    )
    assert answer.status_code == 200, answer.text
    ended = status_of(api, running.job["jobId"])
    assert api.get(ended["resultFileUrl"]).data == content


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"resultZipBase64": "!!!"}, 422, "resultZipBase64"),
        ({"resultZipBase64": base64.b64encode(b"no zip").decode()}, 400, "resultZipBase64"),
        ({"exitCode": None}, 422, "exitCode"),
        ({"exitCode": "0"}, 422, "exitCode"),
        ({"workerId": None}, 422, "workerId"),
        ({"jobId": {"$gt": ""}}, 422, "jobId"),
    ],
)
def test_a_bad_result_names_its_field_and_changes_nothing(
    api: FlaskClient, running: HttpAgent, fields: dict[str, Any], status: int, field: str
) -> None:
    answer = running.submit(**{"exit_code": 0, **fields})
    assert answer.status_code == status, answer.text
    assert [entry["field"] for entry in answer.get_json()["errors"]] == [field]
    assert status_of(api, running.job["jobId"])["status"] == "RUNNING"


@pytest.mark.parametrize("number", ["--5", "-", "5" * 5000, "+5", "1_0", "\u0665", "5.0", ""])
@pytest.mark.parametrize("field", ["exitCode", "attempt"])
def test_a_number_in_a_form_is_a_number_or_named(
    api: FlaskClient, running: HttpAgent, field: str, number: str
) -> None:
    form = {"jobId": running.job["jobId"], "workerId": "w1", "exitCode": "0", field: number}
    answer = api.post("/api/jobs/submit-result", data=form, content_type="multipart/form-data")
    assert answer.status_code == 422, answer.text
    assert [entry["field"] for entry in answer.get_json()["errors"]] == [field]
    assert status_of(api, running.job["jobId"])["status"] == "RUNNING"


def test_a_result_archive_that_is_sent_as_text_is_named(
    api: FlaskClient, running: HttpAgent
) -> None:
    """A part of a form without a filename is text: the job would end without its archive."""
    form = {"jobId": running.job["jobId"], "workerId": "w1", "exitCode": "0", "file": "PK"}
    answer = running.client.post(
        "/api/jobs/submit-result", data=form, content_type="multipart/form-data"
    )
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["field"] == "file"
    assert status_of(api, running.job["jobId"])["status"] == "RUNNING"


def test_a_result_for_a_job_that_is_not_there_is_404(running: HttpAgent) -> None:
    assert running.submit(0, jobId="gone").status_code == 404


def test_a_worker_that_does_not_hold_the_job_may_not_report(running: HttpAgent) -> None:
    assert running.submit(0, workerId="w2").status_code == 403


def test_a_stale_attempt_is_refused_everywhere(api: FlaskClient, agent: HttpAgent) -> None:
    agent.fenced = True
    submit_job(api)
    agent.poll()
    agent.job |= {"attempt": 7}
    assert agent.submit(0).status_code == 409
    assert agent.stream("late").status_code == 409
    assert agent.cancelled() is True
    assert status_of(api, agent.job["jobId"])["status"] == "RUNNING"


def test_output_for_a_job_that_ended_is_409(running: HttpAgent) -> None:
    running.submit(0)
    assert running.stream("late").status_code == 409


def test_the_workers_own_failure_cools_it_down_and_requeues_this_job_alone(
    api: FlaskClient, running: HttpAgent
) -> None:
    other = submit_job(api)
    assert running.fail("disk full").status_code == 200
    listed = api.get("/api/workers/list").get_json()
    assert (listed["unhealthyWorkers"], listed["workers"][0]["status"]) == (1, "UNHEALTHY")
    assert listed["workers"][0]["cooldownUntil"] is not None
    job = status_of(api, running.job["jobId"])
    assert (job["status"], job["attempts"]) == ("QUEUED", 1)
    assert status_of(api, other)["attempts"] == 0


def test_a_worker_cannot_talk_itself_out_of_its_cooldown(
    api: FlaskClient, running: HttpAgent
) -> None:
    running.fail()
    running.heartbeat(status="IDLE")
    assert api.get("/api/workers/list").get_json()["workers"][0]["status"] == "UNHEALTHY"
    assert running.poll().status_code == 202


def test_a_registration_clears_the_cooldown(api: FlaskClient, running: HttpAgent) -> None:
    running.fail()
    running.register()
    assert api.get("/api/workers/list").get_json()["workers"][0]["status"] == "IDLE"


def test_a_failure_with_no_retries_left_fails_the_job(api: FlaskClient, agent: HttpAgent) -> None:
    job_id = submit_job(api, maxRetries=0)
    agent.poll()
    agent.fail("disk full")
    ended = status_of(api, job_id)
    assert ended["status"] == "FAILED"
    assert "disk full" in ended["errorMessage"]


def test_a_failure_with_a_whole_log_for_its_message_is_recorded_and_cut(
    api: FlaskClient, agent: HttpAgent
) -> None:
    """Such a failure used to be refused, and the job waited for its lease to end."""
    job_id = submit_job(api, maxRetries=0)
    agent.poll()
    assert agent.fail("disk full " + "x" * 100_000).status_code == 200
    ended = status_of(api, job_id)
    assert ended["status"] == "FAILED"
    assert ended["errorMessage"].startswith("disk full xxx")
    assert "x…; no retries left" in ended["errorMessage"]
    assert len(ended["errorMessage"]) < 2100
    (worker,) = api.get("/api/workers/list").get_json()["workers"]
    assert len(worker["healthReason"]) < 2100


def test_a_cancel_reaches_the_agent_and_its_result_ends_the_job_cancelled(
    api: FlaskClient, running: HttpAgent
) -> None:
    job_id = running.job["jobId"]
    assert running.cancelled() is False
    assert api.post("/api/jobs/cancel", json={"jobId": job_id}).status_code == 200
    assert running.cancelled() is True
    assert running.heartbeat(jobs=[job_id]).get_json()["cancel"] == [job_id]
    running.submit(143)
    assert status_of(api, job_id)["status"] == "CANCELLED"


def test_a_heartbeat_tells_of_jobs_that_are_lost(running: HttpAgent) -> None:
    assert running.heartbeat(jobs=["not-mine"]).get_json()["lost"] == ["not-mine"]


def test_a_heartbeat_of_an_unknown_worker_adds_it(api: FlaskClient) -> None:
    assert HttpAgent(api, "new").heartbeat().status_code == 200
    assert api.get("/api/workers/list").get_json()["totalWorkers"] == 1


@pytest.mark.parametrize("how", ["register", "heartbeat"])
def test_a_worker_may_begin_by_saying_that_it_is_unhealthy(
    api: FlaskClient, as_role: As, how: str
) -> None:
    agent = HttpAgent(as_role("agent"), "w9")
    said = getattr(agent, how)(status="UNHEALTHY")
    assert said.status_code == 200, said.text
    (worker,) = api.get("/api/workers/list").get_json()["workers"]
    assert (worker["status"], worker["healthReason"]) == (
        "UNHEALTHY",
        "reports that it is unhealthy",
    )
    agent.register()
    (worker,) = api.get("/api/workers/list").get_json()["workers"]
    assert (worker["status"], worker["healthReason"]) == ("IDLE", None)


def test_what_a_worker_does_not_know_may_be_null(api: FlaskClient, as_role: As) -> None:
    """The load is NaN at first, which JavaScript sends as null: a 422 would stop the agent."""
    agent = HttpAgent(as_role("agent"), "w1")
    facts = "os cpuCount cpuUsage ramTotalMb ramFreeMb version status labels maxJobs"
    unknown = dict.fromkeys(facts.split())
    assert agent.register(**unknown).status_code == 200
    (new,) = api.get("/api/workers/list").get_json()["workers"]
    assert (new["cpuCount"], new["labels"], new["status"]) == (1, [], "IDLE")
    agent.register()
    told = agent.heartbeat(cpuUsage=None, ramTotalMb=None, ramFreeMb=None, status=None)
    assert told.status_code == 200, told.text
    (known,) = api.get("/api/workers/list").get_json()["workers"]
    assert (known["cpuUsage"], known["ramTotalMb"], known["ramFreeMb"]) == (12.5, 8000, 4000)


def test_a_registration_forgets_what_an_earlier_one_said(api: FlaskClient, as_role: As) -> None:
    """Otherwise a worker that is restarted without a label or a limit would still have it."""
    client = as_role("agent")
    HttpAgent(client, "w1").register(
        labels=["gpu"], maxJobs=1, dockerContainers=1, dockerCpuUsage=2, dockerMemoryMb=3
    )
    for worker_id in ("w1", "w2"):
        body = {"workerId": worker_id, "hostname": "host"}
        assert client.post("/api/workers/register", json=body).status_code == 200
    again, new = api.get("/api/workers/list").get_json()["workers"]
    differ = {"workerId", "lastHeartbeat", "updatedAt"}
    assert {n: v for n, v in again.items() if n not in differ} == {
        n: v for n, v in new.items() if n not in differ
    }
    assert (again["labels"], again["maxJobs"]) == ([], 0)


def test_a_deleted_worker_stays_away_until_it_registers_again(
    api: FlaskClient, agent: HttpAgent
) -> None:
    assert api.delete("/api/workers/w1").get_json() == {
        "success": True,
        "workerId": "w1",
        "existed": True,
    }
    assert agent.heartbeat().status_code == 410
    assert agent.poll().status_code == 410
    assert api.get("/api/workers/list").get_json()["totalWorkers"] == 0
    agent.register()
    assert agent.heartbeat().status_code == 200
    assert api.get("/api/workers/list").get_json()["idleWorkers"] == 1


def test_deleting_a_worker_that_never_was_says_so(api: FlaskClient) -> None:
    assert api.delete("/api/workers/gone").get_json()["existed"] is False


@pytest.mark.parametrize(
    ("exit_code", "passes", "status"), [(0, 0, "COMPLETED"), (1, 1, "ASSIGNED")]
)
def test_a_result_has_a_pass_run_only_if_its_job_is_to_run_again(
    api: FlaskClient,
    agent: HttpAgent,
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    exit_code: int,
    passes: int,
    status: str,
) -> None:
    """The agent asks for its next job itself; only other agents wait for a pass."""
    job_id = submit_job(api, retryOnExit=True)
    agent.poll()
    submit_job(api, labels=["nobody"])
    facts = {"kind": "celery", "bootId": "b", "cpuCount": 4, "ramTotalMb": 8000}
    platform.store.workers.register("other", facts, now=platform.store.clock.now())
    ran: list[str] = []
    run_pass = Platform.run_pass

    def count(self: Platform, trigger: str) -> Any:
        ran.append(trigger)
        return run_pass(self, trigger)

    monkeypatch.setattr(Platform, "run_pass", count)
    assert agent.submit(exit_code).status_code == 200
    assert ran == ["retry"] * passes
    assert status_of(api, job_id)["status"] == status


def test_a_draining_worker_gets_nothing_new(api: FlaskClient, agent: HttpAgent) -> None:
    submit_job(api)
    assert api.post("/api/workers/w1/drain").status_code == 200
    assert agent.poll().status_code == 202
    assert api.post("/api/workers/w1/resume").status_code == 200
    assert agent.poll().status_code == 200


@pytest.mark.parametrize("worker_id", ["rack/7", "a//b", "a/drain", "list/", "register"])
def test_a_worker_with_slashes_in_its_name_is_drained_resumed_and_deleted(
    api: FlaskClient, worker_id: str
) -> None:
    HttpAgent(api, worker_id).register()
    path = f"/api/workers/{quote(worker_id, safe='')}"
    for action, draining in (("drain", True), ("resume", False)):
        assert api.post(f"{path}/{action}").get_json()["workerId"] == worker_id
        (shown,) = api.get("/api/workers/list").get_json()["workers"]
        assert shown["draining"] is draining
    assert api.delete(path).get_json()["existed"] is True


def test_no_slash_too_many_leads_to_another_worker(api: FlaskClient, agent: HttpAgent) -> None:
    assert api.delete("/api/workers//w1").status_code == 404
    assert api.post("/api/workers//w1/drain").status_code == 404
    assert agent.heartbeat().status_code == 200


def test_the_workers_list_has_every_field_of_the_contract(
    api: FlaskClient, running: HttpAgent
) -> None:
    listed = api.get("/api/workers/list").get_json()
    fields = """workerId status hostname os cpuCount cpuUsage ramTotalMb ramFreeMb lastHeartbeat
        currentJobIds reservedCpu reservedRamMb cooldownUntil updatedAt dockerContainers
        dockerCpuUsage dockerMemoryMb kind labels maxJobs isolation"""
    assert [name for name in fields.split() if name not in listed["workers"][0]] == []
    assert listed["busyWorkers"] == 1
    assert listed["workers"][0]["currentJobIds"] == [running.job["jobId"]]
    assert listed["workers"][0]["reservedRamMb"] == 256


def test_the_old_listing_is_410_and_says_where_it_went(api: FlaskClient) -> None:
    answer = api.get("/api/workers/register")
    assert answer.status_code == 410
    assert answer.get_json()["error"] == "Use /api/workers/list"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hostname": None}, "hostname"),
        ({"hostname": ["a"]}, "hostname"),
        ({"workerId": {"$ne": 1}}, "workerId"),
        ({"workerId": "."}, "workerId"),
        ({"workerId": ".."}, "workerId"),
        ({"workerId": "/w1"}, "workerId"),
        ({"workerId": "w1\n"}, "workerId"),
        ({"cpuCount": -1}, "cpuCount"),
        ({"ramTotalMb": "lots"}, "ramTotalMb"),
    ],
)
def test_a_bad_registration_names_its_field(
    agent: HttpAgent, fields: dict[str, Any], field: str
) -> None:
    """A worker whose id no address can contain could be neither drained nor deleted."""
    answer = agent.register(**fields)
    assert answer.status_code == 422
    assert [entry["field"] for entry in answer.get_json()["errors"]] == [field]


def test_a_token_of_one_worker_speaks_for_no_other(as_role: As, api: FlaskClient) -> None:
    bound = HttpAgent(as_role("agent", "w1"), "w1")
    assert bound.register().status_code == 200
    bound.worker_id = "w2"
    assert bound.register().status_code == 403
    submit_job(api)
    bound.worker_id = "w1"
    bound.poll()
    bound.worker_id = "w2"
    assert bound.submit(0).status_code == 403


@pytest.mark.parametrize("sign", ["heartbeat", "output", "check-cancel"])
def test_an_agent_keeps_its_job_by_signs_of_life_and_loses_it_without(
    api: FlaskClient, running: HttpAgent, let_pass: Callable[[float], None], sign: str
) -> None:
    job_id = running.job["jobId"]
    for _ in range(4):
        let_pass(20)
        if sign == "heartbeat":
            assert running.heartbeat(jobs=[job_id]).get_json()["lost"] == []
        elif sign == "output":
            assert running.stream("alive\n").status_code == 200
        else:
            assert not running.cancelled()
    assert status_of(api, job_id)["status"] == "RUNNING"
    let_pass(40)
    assert status_of(api, job_id)["status"] == "QUEUED"


def test_an_empty_result_archive_is_accepted(api: FlaskClient, running: HttpAgent) -> None:
    empty = base64.b64encode(zipped()).decode()
    assert running.submit(0, resultZipBase64=empty).status_code == 200
    assert status_of(api, running.job["jobId"])["status"] == "COMPLETED"


def test_an_old_result_never_passes_for_a_new_attempts(
    api: FlaskClient, running: HttpAgent, let_pass: Callable[[float], None]
) -> None:
    """An agent that sends no attempt does not get a job again that it lost, until it registers."""
    job_id = running.job["jobId"]
    running.stream("alive")
    let_pass(40)
    running.heartbeat()
    assert running.poll().status_code == 202
    assert running.submit(0).status_code in (403, 409)
    assert status_of(api, job_id)["status"] == "QUEUED"
    running.register()
    assert running.poll().get_json()["job"]["jobId"] == job_id


def test_a_registration_gives_up_what_the_worker_ran_in_its_earlier_life(
    api: FlaskClient, running: HttpAgent, let_pass: Callable[[float], None]
) -> None:
    job_id = running.job["jobId"]
    running.stream("alive")
    running.register()
    for _ in range(4):
        let_pass(10)
        running.heartbeat()
    job = status_of(api, job_id)
    assert (job["status"], job["attempts"]) == ("QUEUED", 1)
    assert running.poll().get_json()["job"]["jobId"] == job_id


def test_a_lost_answer_is_not_given_again_to_another_life_of_the_worker(
    api: FlaskClient, running: HttpAgent, let_pass: Callable[[float], None]
) -> None:
    """The earlier life may have started the job: both would run it under one lease."""
    first = running.job
    running.register()
    assert running.poll().status_code == 202
    let_pass(40)
    running.heartbeat()
    again = running.poll().get_json()["job"]
    assert again["jobId"] == first["jobId"]
    assert again["leaseId"] != first["leaseId"]


def test_what_is_told_again_is_told_when_a_majority_has_it(
    running: HttpAgent, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result, a cancel or a hand-out that only one member has may still be rolled back."""
    other = submit_job(running.client)
    assert running.client.post("/api/jobs/cancel", json={"jobId": other}).status_code == 200
    unheard = running.poll
    done = dict(running.job)

    def no_majority(self: JobStore, job_id: str) -> None:
        raise StoreUnavailable("no majority")

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "confirmed", no_majority)
        assert unheard().status_code == 503
        assert running.client.post("/api/jobs/cancel", json={"jobId": other}).status_code == 503
        running.job = done
        assert running.submit(0).status_code == 200
        assert running.submit(0).status_code == 503
    assert running.submit(0).status_code == 200
    assert running.client.post("/api/jobs/cancel", json={"jobId": other}).status_code == 409


def test_a_job_that_two_polls_have_given_back_is_handed_out_again(
    api: FlaskClient, platform: Platform, agent: HttpAgent
) -> None:
    """No answer to a poll contained the job, so the worker has not lost it."""
    worker = platform.store.workers.get("w1")
    job_id = submit_job(api)
    claimed = polling.poll(platform.store, platform.settings, worker)
    assert claimed is not None
    back = lifecycle.release(
        claimed, lease_of(claimed), reason="beside", at=platform.moment(), told=False
    )
    assert platform.store.jobs.apply(back)
    assert agent.poll().get_json()["job"]["jobId"] == job_id


def test_two_polls_at_once_leave_no_job_that_the_worker_cannot_have(
    api: FlaskClient, platform: Platform, racing: Racing
) -> None:
    agent = HttpAgent(api)
    agent.register(cpuCount=1)
    worker = platform.store.workers.get("w1")
    for _ in range(5):
        job_ids = [submit_job(api) for _ in range(2)]
        racing(lambda: polling.poll(platform.store, platform.settings, worker), 2)
        while agent.poll().status_code == 200:
            agent.submit(0)
        assert {status_of(api, job_id)["status"] for job_id in job_ids} == {"COMPLETED"}


def test_a_deleted_worker_renews_nothing_and_is_told_to_stop(
    api: FlaskClient, platform: Platform, running: HttpAgent
) -> None:
    running.stream("alive")
    job_id = running.job["jobId"]
    before = platform.store.jobs.get(job_id).lease_until
    assert api.delete("/api/workers/w1").status_code == 200
    assert running.cancelled()
    running.stream("still alive")
    assert platform.store.jobs.get(job_id).lease_until == before


def test_a_job_that_was_cancelled_before_its_worker_heard_of_it_is_not_handed_out(
    api: FlaskClient, running: HttpAgent
) -> None:
    job_id = running.job["jobId"]
    assert api.post("/api/jobs/cancel", json={"jobId": job_id}).status_code == 200
    assert running.poll().status_code == 202
    running.submit(0)
    assert status_of(api, job_id)["status"] == "CANCELLED"


def test_one_that_is_taken_back_after_a_cancel_is_kept_for_as_long_as_any_other(
    with_settings: Callable[..., Platform],
) -> None:
    here = with_settings(job_retention_days=90)
    facts = {"kind": "http", "bootId": "b", "cpuCount": 1, "ramTotalMb": 1024}
    worker = here.store.workers.register("w1", facts, now=here.store.clock.now())
    (job_id,) = operations.submit(here, [{"command": "true"}], by="app")
    assert polling.poll(here.store, here.settings, worker)
    operations.cancel(here, job_id, by="op", reason=None)
    assert polling.poll(here.store, here.settings, worker) is None
    job = here.store.jobs.get(job_id)
    assert job.status is JobStatus.CANCELLED
    assert job.completed_at is not None
    assert job.expire_at == job.completed_at + timedelta(days=90)


def test_a_job_that_outlasts_its_timeout_on_a_lively_worker_timed_out(
    api: FlaskClient, running: HttpAgent, let_pass: Callable[[float], None]
) -> None:
    """The worker is healthy: it is neither suspended nor counted as lost."""
    job_id = _outlasting(api, running, let_pass)
    ended = status_of(api, job_id)
    verbs = [entry["verb"] for entry in ended["history"]]
    assert ended["status"] == "FAILED"
    assert "time_out" in verbs
    assert "expire" not in verbs
    assert "timed out after 20 s" in ended["errorMessage"]
    (worker,) = api.get("/api/workers/list").get_json()["workers"]
    assert worker["healthReason"] is None


def test_a_result_of_a_job_that_was_timed_out_before_is_late(
    api: FlaskClient, running: HttpAgent, let_pass: Callable[[float], None]
) -> None:
    """It was answered as if it were recorded, and was lost."""
    job_id = _outlasting(api, running, let_pass)
    assert running.submit(0, stdout="all of it").status_code == 409
    ended = status_of(api, job_id)
    assert (ended["status"], ended["exitCode"]) == ("FAILED", None)
    assert ended["history"][-1]["reason"] == "result refused: the attempt is over"
    assert ended["refusedWrites"] >= 1


def _outlasting(api: FlaskClient, agent: HttpAgent, let_pass: Callable[[float], None]) -> str:
    """Have an agent run a job past its time-out, alive all the time; return the job's id."""
    job_id = submit_job(api, timeoutMs=20_000, maxRetries=0)
    agent.submit(0)
    agent.poll()
    for _ in range(8):
        agent.stream("alive")
        let_pass(10)
        agent.heartbeat()
    return job_id


def test_an_empty_stream_beside_one_that_was_cut_stays_empty(
    with_settings: Callable[..., Platform],
) -> None:
    here = with_settings(output_cap_bytes=1000)
    api = client_with_token(here)
    agent = registered(api)
    job_id = submit_job(api)
    agent.poll()
    agent.submit(0, stdout="x" * 2000, stderr="")
    ended = status_of(api, job_id)
    assert ended["stdout"].endswith("[taskyard: output cut at 1000 bytes]\n")
    assert ended["stderr"] == ""
