"""A job's input archive, from servers that are slow, wrong or down."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from taskyard.addresses import free_port
from taskyard.agent import download, runner
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Lease
from tests.agent.conftest import Bench
from tests.helpers import eventually

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n"


class Server:
    """Answers each request with ``says``, then sends ``drip`` again and again."""

    def __init__(self, says: bytes, drip: bytes = b"") -> None:
        self._says, self._drip = says, drip
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        #: How many requests have come, and how many connections have ended.
        self.came = self.left = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/in.zip"

    def close(self) -> None:
        self._over.set()
        # Otherwise ``accept`` would wait on, on a descriptor number that a later socket may get.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(0.05)
            while not self._over.is_set():
                try:
                    if not connection.recv(65536):
                        break
                    self.came += 1
                    connection.sendall(self._says.replace(b"SELF", self.url.encode()))
                except TimeoutError:
                    connection.sendall(self._drip)
                except OSError:
                    break
        self.left += 1


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> Iterator[Server]:
    with closing(Server(*getattr(request, "param", (HEAD + b"\r\n", b"x")))) as server:
        yield server


def cancel(bench: Bench, lease: Lease) -> None:
    """Request a cancel, and pass it to the runner as presence does when it has seen one."""
    job, moment = bench.store.jobs.get(lease.job_id), bench.platform.moment()
    assert bench.store.jobs.apply(lifecycle.cancel(job, by="op", reason=None, at=moment))
    bench.runner.cancel(lease)


@pytest.mark.parametrize(
    "slow", [(HEAD + b"\r\n", b"x"), (HEAD + b"X: ", b"x"), (HEAD, b"")], indirect=True
)
@pytest.mark.parametrize("way", ["cancel", "timeout"])
def test_a_job_ends_in_time_with_its_reason_while_its_input_comes_slowly(
    bench: Bench, slow: Server, way: str
) -> None:
    timeout_ms = 1000 if way == "timeout" else 60_000
    lease = bench.give("true", file_url=slow.url, timeout_ms=timeout_ms, max_retries=0)
    if way == "cancel":
        eventually(lambda: slow.came)
        cancel(bench, lease)
    job = bench.ended(lease, download.SILENCE_SECONDS / 2)
    expected = {"cancel": ("CANCELLED", "cancelled"), "timeout": ("FAILED", "timed out after 1 s")}
    status, reason = expected[way]
    assert job.status == status
    assert reason in (job.error_message or "")
    eventually(lambda: slow.left == slow.came)
    eventually(lambda: not list(bench.folder.iterdir()))


def test_an_abandoned_job_waits_for_its_input_no_more(bench: Bench, slow: Server) -> None:
    lease = bench.give("true", file_url=slow.url)
    eventually(lambda: slow.came)
    bench.runner.abandon(lease)
    eventually(lambda: not bench.runner.job_ids())
    eventually(lambda: slow.left)


def test_slow_servers_hold_up_neither_other_jobs_nor_their_output(
    bench: Bench, slow: Server
) -> None:
    waiting = [
        bench.give("true", file_url=slow.url, required_cpu=0.1) for _ in range(2 * runner.HELPERS)
    ]
    eventually(lambda: slow.came == len(waiting))
    job = bench.run("echo begun; sleep .3; seq 5000", required_cpu=0.1)
    assert job.status == "COMPLETED"
    assert bench.printed(job).endswith("5000\n")


def test_a_job_that_waits_for_a_thread_for_its_input_can_be_cancelled(
    platform: Platform, tmp_path: Path, slow: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FETCHERS", 1)
    bench = Bench(platform, tmp_path / "w")
    bench.give("true", file_url=slow.url)
    eventually(lambda: slow.came)
    second = bench.give("true", file_url=slow.url)
    bench.await_status(second, "RUNNING")
    cancel(bench, second)
    assert bench.ended(second).status == "CANCELLED"
    bench.runner.drain(0)


def answer(status: str, header: str = "X: y") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n{header}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (answer("404 Not Found"), "fileUrl answered 404 Not Found"),
        (answer("200 OK"), "not a ZIP archive"),
        (answer("302 Found", "Location: SELF"), "fileUrl leads through too many redirects"),
        (answer("302 Found", "Location: ftp://a/b"), "fileUrl is no address that can be asked"),
    ],
)
def test_what_is_wrong_with_the_address_or_the_file_is_the_jobs_own_fault(
    bench: Bench, says: bytes, reason: str
) -> None:
    with closing(Server(says)) as server:
        job = bench.run("true", file_url=server.url)
    assert (job.status, job.attempts) == ("FAILED", 1)
    assert reason in (job.error_message or "")
    assert not bench.store.workers.get("w1").trouble(bench.store.clock.now())


@pytest.mark.parametrize("url", ["http://a..b/x.zip", f"http://{'a' * 64}/", "http://a:b/"])
def test_an_address_that_none_can_be_is_the_jobs_own_fault(bench: Bench, url: str) -> None:
    job = bench.run("true", file_url=url)
    assert (job.status, job.attempts) == ("FAILED", 1)
    assert "fileUrl is no address" in (job.error_message or "")


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests", ""])
def test_a_server_that_is_away_is_tried_again_and_costs_the_worker_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0, 0))
    with closing(Server(answer(status))) as server:
        url = server.url if status else f"http://127.0.0.1:{free_port()}/"
        job = bench.await_status(bench.give("true", file_url=url), "QUEUED")
    reason = f"fileUrl answered {status}" if status else "fileUrl cannot be fetched: ConnectError"
    assert job.history[-1]["reason"] == reason
    assert server.came == (3 if status else 0)
    assert not bench.store.workers.get("w1").trouble(bench.store.clock.now())


def test_an_upload_that_is_gone_is_the_jobs_own_failure(bench: Bench) -> None:
    job = bench.run("true", file_id="file-1-gone")
    assert (job.status, job.attempts) == ("FAILED", 1)
    assert "There is no file" in (job.error_message or "")


@pytest.mark.usefixtures("no_thread_left")
def test_an_input_for_which_no_thread_is_left_is_the_hosts_fault(bench: Bench) -> None:
    lease = bench.give("true", file_url="http://127.0.0.1/in.zip")
    job = bench.await_status(lease, "QUEUED")
    assert job.history[-1]["reason"] == "agent error: can't start new thread"
    trouble = bench.store.workers.get("w1").trouble(bench.store.clock.now())
    assert "can't start new thread" in str(trouble)
