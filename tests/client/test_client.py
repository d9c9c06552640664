"""The Python client against the real application."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest

from taskyard import Client
from taskyard.api.app import create_app
from taskyard.client.client import RECONNECT_SECONDS
from taskyard.client.transport import TRIES
from taskyard.context import Platform
from taskyard.errors import ConfigurationError, InvalidRequest, RequestFailed, ServerUnreachable
from tests.api.agents import HttpAgent, client_with_token, registered
from tests.serving import served


@pytest.fixture
def token(platform: Platform) -> str:
    return platform.store.tokens.create(role="operator", name="app")


@pytest.fixture
def client(platform: Platform, token: str) -> Iterator[Client]:
    transport = httpx2.WSGITransport(app=create_app(platform))
    with Client("http://localhost", token, transport=transport) as made:
        yield made


@pytest.fixture
def agent(platform: Platform) -> HttpAgent:
    return registered(client_with_token(platform))


def test_a_job_is_submitted_run_and_waited_for(client: Client, agent: HttpAgent) -> None:
    job_id = client.submit("echo hi", requiredCpu=0.5, env={"A": "b"})
    agent.poll()
    agent.submit(3, stdout="hi\n")
    job = client.wait(job_id)
    assert (job["status"], job["exitCode"], job["requiredCpu"]) == ("FAILED", 3, 0.5)
    assert "".join(client.output(job_id)) == "hi\n"


@pytest.mark.parametrize("worker_id", ["rack/7", "a?b#c", "100%", "50%2F", "a b"])
def test_a_worker_is_acted_on_whatever_it_calls_itself(
    client: Client, agent: HttpAgent, worker_id: str
) -> None:
    HttpAgent(agent.client, worker_id).register()
    assert client.act_on_worker(worker_id, "drain")["workerId"] == worker_id
    assert client.act_on_worker(worker_id, "delete")["existed"] is True


def test_many_jobs_go_in_one_request_in_order(client: Client) -> None:
    ids = client.submit_all([{"command": f"echo {n}"} for n in range(5)])
    assert [client.status(job_id)["command"] for job_id in ids] == [f"echo {n}" for n in range(5)]


@pytest.mark.parametrize("at_once", [1000, 2])
def test_many_jobs_are_waited_for_with_few_requests(
    client: Client, agent: HttpAgent, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("taskyard.client.client.RESULTS_AT_ONCE", at_once)
    ids = client.submit_all([{"command": f"echo {n}"} for n in range(3)])
    assert client.results(ids)["ended"] == 0
    for exit_code in range(3):
        agent.poll()
        agent.submit(exit_code)
    results = client.wait_for_all(ids)
    assert [(job["jobId"], job["exitCode"]) for job in results] == [
        (job_id, exit_code) for exit_code, job_id in enumerate(ids)
    ]


def test_of_no_jobs_all_have_ended(client: Client) -> None:
    assert client.wait_for_all([]) == []


def test_lists_are_filtered_and_paged(client: Client) -> None:
    client.submit_all([{"command": "a", "labels": ["gpu"]}] * 3)
    page = client.list_jobs(label="gpu", limit=2, status=["QUEUED"])
    rest = client.list_jobs(label="gpu", limit=2, after=page["next"], worker=None)
    assert (page["count"], rest["count"], rest["next"]) == (2, 1, None)


def test_cancel_and_retry(client: Client) -> None:
    job_id = client.submit("true")
    client.cancel(job_id, reason="enough")
    assert client.status(client.retry(job_id))["retryOf"] == job_id


def test_files_go_up_with_a_job_and_come_down(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "p.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("a", "x")
    job = client.status(client.submit("true", file=source))
    kept = BytesIO()
    client.download(job["fileUrl"], kept)
    assert kept.getvalue() == source.read_bytes()


def test_the_same_file_with_the_same_key_again_is_the_same_job(
    client: Client, tmp_path: Path
) -> None:
    """A client that submits again because it was interrupted also uploads the file again."""
    for name in ("a", "b"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}.txt", "hello")
    first, again = (client.submit("ls", file=tmp_path / "a.zip", key="k") for _ in range(2))
    assert first == again
    with pytest.raises(RequestFailed, match="another body"):
        client.submit("ls", file=tmp_path / "b.zip", key="k")
    assert client.list_jobs()["count"] == 1


@pytest.mark.parametrize("key", ["Müller", "a\nb", "a\0b", " a", "a ", "\udcff"])
def test_a_key_that_no_header_can_carry_is_told(token: str, platform: Platform, key: str) -> None:
    with (
        served(platform) as url,
        Client(url, token) as client,
        pytest.raises(InvalidRequest, match="cannot be sent"),
    ):
        client.submit("true", key=key)


def test_a_file_elsewhere_is_not_asked_for_with_the_token() -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, content=b"PK")

    here = "http://localhost"
    with Client(here, "t", transport=httpx2.MockTransport(answer)) as ours:
        for url in ("https://stranger.example/p.zip", f"{here}.example/p.zip", f"{here}:1/p.zip"):
            with pytest.raises(InvalidRequest, match=r"is not a file of http://localhost\."):
                ours.download(url, BytesIO())
        assert not asked
        for url in ("/api/files/download/f", f"{here}/api/files/download/f", "//x.example/f"):
            ours.download(url, BytesIO())
    assert {request.url.host for request in asked} == {"localhost"}


def test_workers_are_listed_and_managed(client: Client, agent: HttpAgent) -> None:
    client.act_on_worker("w1", "drain")
    assert client.workers()["workers"][0]["draining"] is True
    client.act_on_worker("w1", "resume")
    assert client.act_on_worker("w1", "delete")["existed"] is True
    assert client.workers()["totalWorkers"] == 0


@pytest.mark.parametrize(
    ("act", "status", "exit_code", "words"),
    [
        (lambda c: c.status("gone"), 404, 6, "no job 'gone'"),
        (lambda c: c.submit("true", requiredCpu=-1), 422, 2, "requiredCpu"),
        (lambda c: c.retry(c.submit("true")), 409, 7, "has not ended"),
        (lambda c: list(c.output("gone")), 404, 6, "no job 'gone'"),
    ],
)
def test_what_the_api_refuses_is_raised_with_its_words(
    client: Client, act: Callable[[Client], Any], status: int, exit_code: int, words: str
) -> None:
    with pytest.raises(RequestFailed, match=words) as refused:
        act(client)
    assert (refused.value.status, refused.value.exit_code) == (status, exit_code)


def test_a_wrong_token_is_told(platform: Platform) -> None:
    transport = httpx2.WSGITransport(app=create_app(platform))
    with (
        Client("http://localhost", "tyk_a_b", transport=transport) as client,
        pytest.raises(RequestFailed) as refused,
    ):
        client.workers()
    assert refused.value.exit_code == 5


@pytest.mark.parametrize("token", ["é", "tyk_a_b\n", "\udcff"])
def test_a_token_that_cannot_be_one_is_told_without_saying_it(token: str) -> None:
    with pytest.raises(ConfigurationError, match="token is not one") as told:
        Client("http://localhost", token)
    assert token not in str(told.value)


def test_nobody_there_is_told_with_what_to_do() -> None:
    with Client("http://127.0.0.1:1", "t") as client, pytest.raises(ServerUnreachable) as gone:
        client.cancel("x")
    assert "taskyard up" in str(gone.value)
    assert gone.value.exit_code == 4


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx2.Response(301, headers={"Location": "https://other/"}), "301 .* https://other/"),
        (httpx2.Response(200, html="<html>"), "200 OK text/html"),
        (httpx2.Response(200, json=[]), "200 OK application/json"),
        (httpx2.Response(200, json={}), "200 OK application/json"),
        (httpx2.Response(200, json="text"), "200 OK application/json"),
        (httpx2.Response(200, content=b'{"jobs": ['), "200 OK"),
        (httpx2.Response(200, content=b"\xff"), "200 OK"),
    ],
)
@pytest.mark.parametrize(
    "act",
    [
        lambda client: client.list_jobs(),
        lambda client: client.submit("true"),
        lambda client: client.ready(),
        lambda client: list(client.output("any")),
        lambda client: list(client.follow("any")),
    ],
)
def test_an_address_that_is_not_taskyard_is_told(
    act: Callable[[Client], Any], answer: httpx2.Response, words: str
) -> None:
    stranger = httpx2.MockTransport(lambda _: answer)
    with (
        Client("http://stranger", "t", transport=stranger) as client,
        pytest.raises(ServerUnreachable, match=f"http://stranger is not Taskyard .{words}"),
    ):
        act(client)


def test_a_readyz_of_something_else_is_not_taskyards() -> None:
    stranger = httpx2.MockTransport(lambda _: httpx2.Response(404, json={"error": "no"}))
    with (
        Client("http://stranger", "t", transport=stranger) as client,
        pytest.raises(ServerUnreachable, match=r"is not Taskyard \(404 Not Found"),
    ):
        client.ready()


@pytest.mark.parametrize(
    "make", [lambda client, _: client.submit("true"), lambda client, job: client.retry(job)]
)
def test_what_made_a_job_and_whose_answer_was_lost_is_sent_again_and_makes_one_job(
    platform: Platform, token: str, client: Client, make: Callable[[Client, str], str]
) -> None:
    ended = client.submit("true")
    client.cancel(ended)
    inner = httpx2.WSGITransport(app=create_app(platform))

    class LosesFirstAnswer(httpx2.BaseTransport):
        lost = False

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            answer = inner.handle_request(request)
            if not self.lost:
                self.lost = True
                raise httpx2.ReadError("the line dropped")
            return answer

    with Client("http://localhost", token, transport=LosesFirstAnswer()) as unlucky:
        job_id = make(unlucky, ended)
        assert [job["jobId"] for job in client.list_jobs()["jobs"]] == [job_id, ended]


class Away(httpx2.BaseTransport):
    """The application, which answers the first ``times`` requests of each path with an error: its
    database is away, or it is away itself, behind a proxy.
    """

    def __init__(self, platform: Platform, times: int, status: int) -> None:
        self._inner = httpx2.WSGITransport(app=create_app(platform))
        self._times = times
        self._status = status
        self.asked: Counter[str] = Counter()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked[request.url.path] += 1
        if self.asked[request.url.path] <= self._times:
            return httpx2.Response(
                self._status, headers={"Retry-After": "0"}, json={"detail": "away"}
            )
        return self._inner.handle_request(request)


@pytest.mark.parametrize(
    ("status", "path", "act"),
    [
        (503, "create", lambda client, job: client.submit("true")),
        (503, "status", lambda client, job: client.status(job)),
        (502, "list", lambda client, job: client.list_jobs()),
        (504, "output", lambda client, job: list(client.output(job))),
        (503, "events", lambda client, job: next(client.follow(job))),
        (502, "events", lambda client, job: next(client.follow(job))),
        (503, "cancel", lambda client, job: client.cancel(job)),
    ],
)
def test_what_may_be_sent_again_is_while_the_database_is_away(
    platform: Platform,
    token: str,
    client: Client,
    status: int,
    path: str,
    act: Callable[[Client, str], Any],
) -> None:
    job_id = client.submit("true")
    for times, served_in_the_end in ((TRIES - 1, True), (TRIES, False)):
        away = Away(platform, times, status)
        with Client("http://localhost", token, transport=away) as asking:
            if served_in_the_end:
                act(asking, job_id)
            else:
                with pytest.raises(RequestFailed, match="away") as given_up:
                    act(asking, job_id)
                assert given_up.value.exit_code == 4
        assert away.asked[f"/api/jobs/{path}"] == TRIES


class Reading(Away):
    """Reads each body before it answers."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        return super().handle_request(request)


def test_an_upload_is_sent_again_whole_while_the_database_is_away(
    platform: Platform, token: str, tmp_path: Path
) -> None:
    source = tmp_path / "notes"
    source.write_bytes(bytes(range(256)) * 4096)
    kept = BytesIO()
    with Client("http://localhost", token, transport=Reading(platform, 2, 503)) as client:
        client.download(client.upload(source)["url"], kept)
    assert kept.getvalue() == source.read_bytes()


def test_a_pipe_is_uploaded_whole(platform: Platform, token: str, tmp_path: Path) -> None:
    """Such as ``taskyard run -f <(git archive …)`` gives; even if it has to be sent again."""
    pipe, sent, kept = tmp_path / "pipe", bytes(range(256)) * 4096, BytesIO()
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(sent,))
    writer.start()
    with (
        served(platform) as url,
        Client(url, token) as client,
        Client("http://localhost", token, transport=Reading(platform, 2, 503)) as unlucky,
    ):
        client.download(client.upload(pipe)["url"], kept)
        writer.join()
        assert kept.getvalue() == sent
        writer = threading.Thread(target=pipe.write_bytes, args=(sent,))
        writer.start()
        assert unlucky.upload(pipe)["size"] == len(sent)
        writer.join()


def test_what_a_file_grows_by_while_it_is_uploaded_is_left_out(
    platform: Platform, token: str, tmp_path: Path
) -> None:
    log, kept = tmp_path / "log", BytesIO()
    log.write_bytes(bytes(range(256)) * 4096)
    begun = log.read_bytes()

    class Growing(httpx2.HTTPTransport):
        """Appends to the log when the length of the upload is already fixed."""

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            with log.open("ab") as more:
                more.write(b"more")
            return super().handle_request(request)

    with served(platform) as url, Client(url, token, transport=Growing()) as client:
        client.download(client.upload(log)["url"], kept)
    assert kept.getvalue() == begun


def test_a_follower_sees_everything_to_the_end(
    platform: Platform, token: str, agent: HttpAgent
) -> None:
    with served(platform) as url, Client(url, token) as client:
        job_id = client.submit("true")
        events = client.follow(job_id)
        assert next(events).data["status"] == "QUEUED"
        agent.poll()
        agent.stream("one")
        agent.submit(0, stdout=None, stderr=None)
        rest = list(events)
    assert [event.data["data"] for event in rest if event.name == "stdout"] == ["one"]
    assert rest[-1].name == "end"


def test_a_follower_comes_back_where_it_was_when_the_line_drops(
    platform: Platform, token: str, agent: HttpAgent
) -> None:
    with served(platform) as url, Cut(url) as cut, Client(cut.url, token) as client:
        job_id = client.submit("true")
        agent.poll()
        agent.stream("one ")
        events = client.follow(job_id)
        while next(events).name != "stdout":
            pass
        cut.drop()
        agent.stream("two")
        agent.submit(0, stdout=None, stderr=None)
        rest = [event.data["data"] for event in events if event.name == "stdout"]
    assert rest == ["two"]
    assert cut.connections >= 2


class Line(httpx2.BaseTransport):
    """Serves a job's events by steps, one a request: how long the connection lasts, and what is
    sent before it drops (None: nobody answers). Time passes here alone.
    """

    def __init__(self, *steps: tuple[float, bytes | None]) -> None:
        self._steps = list(steps)
        self.now = 0.0
        self.places: list[str] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.places.append(request.headers.get("Last-Event-ID", ""))
        lasts, told = self._steps.pop(0) if self._steps else (0, None)
        if told is None:
            self.now += lasts
            raise httpx2.ConnectError("nobody there")
        return httpx2.Response(
            200,
            headers={"Content-Type": "text/event-stream"},
            stream=Dropped(self, lasts, told),
        )


class Dropped(httpx2.SyncByteStream):
    """The body of an answer, up to the moment at which the connection drops."""

    def __init__(self, line: Line, lasts: float, told: bytes) -> None:
        self._line, self._lasts, self._told = line, lasts, told

    def __iter__(self) -> Iterator[bytes]:
        yield self._told
        self._line.now += self._lasts
        raise httpx2.ReadError("the line dropped")


STATE = b'id: 1\nevent: state\ndata: {"status": "RUNNING"}\n\n'
END = b"id: 2\nevent: end\ndata: {}\n\n"


def on_line(line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for module in ("client", "transport"):
        monkeypatch.setattr(f"taskyard.client.{module}.time", line)
    with Client("http://localhost", "t", transport=line) as client:
        for event in client.follow("any"):
            yield event.name


def test_a_follower_of_a_silent_job_comes_back_whenever_its_line_drops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line((600, STATE), (600, b""), (50, None), (600, b": awake\n\n"), (50, None), (0, END))
    assert list(on_line(line, monkeypatch)) == ["state", "end"]
    assert line.places == ["", "1", "1", "1", "1", "1"]


def test_a_follower_gives_up_a_minute_after_the_line_has_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line((600, STATE))
    with pytest.raises(ServerUnreachable, match="nobody there"):
        list(on_line(line, monkeypatch))
    assert RECONNECT_SECONDS < line.now - 600 < RECONNECT_SECONDS + 5


def test_a_follower_begins_though_the_api_is_started_again_just_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``taskyard run`` used to end then, saying that nobody answers, just after it made its job."""
    line = Line((0, None), (0, None), (0, STATE + END))
    assert list(on_line(line, monkeypatch)) == ["state", "end"]


def test_a_follower_of_whom_nobody_hears_gives_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    with pytest.raises(ServerUnreachable, match="nobody there"):
        list(on_line(line, monkeypatch))
    assert len(line.places) == TRIES


class Waited(httpx2.BaseTransport):
    """An API that says that a job has not ended, is away for some requests, and then says that it
    has. Time passes here alone.
    """

    def __init__(self, *, answers: int = 1, away: int) -> None:
        """``answers``: requests before it goes away; ``away``: requests until it is back."""
        self.now = 0.0
        self._answers, self._away = answers, away

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._answers:
            self._answers -= 1
            return httpx2.Response(200, json={"completedAt": None, "ended": 0})
        if self._away:
            self._away -= 1
            if self._away % 2:
                return httpx2.Response(502, text="nobody there, says a proxy")
            raise httpx2.ConnectError("nobody there")
        return httpx2.Response(200, json={"completedAt": 1, "ended": 1, "jobs": [{}]})


@pytest.fixture(params=[lambda c: c.wait("any"), lambda c: c.wait_for_all(["any"])])
def waits(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Waited], Any]:
    def wait(api: Waited) -> Any:
        for module in ("client", "transport"):
            monkeypatch.setattr(f"taskyard.client.{module}.time", api)
        with Client("http://localhost", "t", transport=api) as client:
            return request.param(client)

    return wait


def test_who_waits_for_a_job_waits_on_while_the_api_is_started_again(
    waits: Callable[[Waited], Any],
) -> None:
    assert waits(Waited(away=10 * TRIES))


def test_who_waits_gives_up_a_minute_after_the_api_has_gone(
    waits: Callable[[Waited], Any],
) -> None:
    api = Waited(away=1000)
    with pytest.raises((ServerUnreachable, RequestFailed)):
        waits(api)
    assert RECONNECT_SECONDS < api.now < RECONNECT_SECONDS + 10


def test_who_would_wait_where_nobody_is_is_told_at_once(waits: Callable[[Waited], Any]) -> None:
    api = Waited(answers=0, away=1000)
    with pytest.raises((ServerUnreachable, RequestFailed)):
        waits(api)
    assert api.now < 5


def test_who_has_submitted_waits_with_a_single_request() -> None:
    """A look before the long poll costs web a request while the agent starts the job."""
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(f"{request.method} {request.url.params.get('wait')}")
        return httpx2.Response(200, json={"jobId": "j", "completedAt": 1})

    with Client("http://localhost", "t", transport=httpx2.MockTransport(answer)) as client:
        client.wait(client.submit("true"))
    assert asked == ["POST None", "GET 60"]


def test_who_has_submitted_waits_on_while_the_api_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = Waited(away=10 * TRIES)
    monkeypatch.setattr("taskyard.client.client.time", api)
    monkeypatch.setattr("taskyard.client.transport.time", api)
    with Client("http://localhost", "t", transport=api) as client:
        client.workers()
        assert client.wait("any")["completedAt"] == 1


class Cut:
    """A proxy in front of the server, whose connections can be dropped at any moment."""

    def __init__(self, target: str) -> None:
        self._target = ("127.0.0.1", int(target.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.connections = 0

    def __enter__(self) -> Cut:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        while self._open:
            end = self._open.pop()
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(self._target)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
