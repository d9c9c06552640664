"""The sides that ``bench/jobs.py`` measures, each started anew with a server of its own.

A side hands out clients, tells when nothing is left to do, and names its processes by kind, so
that what it costs can be told and its workers can be held (SIGSTOP) while jobs are submitted.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import psutil
from bench.common import (
    Caller,
    family,
    redis_server,
    started,
    wait_until,
)
from pymongo import MongoClient
from tests.helpers import free_port

from taskyard.client import config
from taskyard.embedded import EmbeddedServer

COMMAND = "echo hi"
TIMEOUT_SECONDS = 300.0

#: Between two looks of a client that has nothing better than to look.
LOOK_SECONDS = 0.001

Processes = Mapping[str, Sequence[psutil.Process]]


class Client(Protocol):
    """One of the clients that submit jobs and read them back."""

    def submit(self, command: str = COMMAND) -> Any:
        """Submit a job; what it returns names it."""

    def output(self, job: Any) -> str:
        """What the job printed, once it has ended."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One system, running."""

    connect: Callable[[], Client]
    #: Whether every job that was submitted is over and its result stored.
    is_drained: Callable[[], bool]
    #: Kind -> its processes; all but the benchmark's own.
    processes: Processes
    #: Kinds that run jobs.
    workers: Sequence[str]

    def everything(self) -> list[psutil.Process]:
        """All its processes."""
        return [process for kind in self.processes.values() for process in kind]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Its workers stand still meanwhile."""
        mine = [process for kind in self.workers for process in self.processes[kind]]
        for process in mine:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(mine):
                process.send_signal(signal.SIGCONT)


class TaskyardClient:
    """Over HTTP; one request waits for the end and brings the output."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self._caller = Caller(url, token)

    def submit(self, command: str = COMMAND) -> Any:
        """One job in one request."""
        return self._caller.call("POST", "/api/jobs/create", {"command": command})["jobId"]

    def submit_list(self, count: int, command: str = COMMAND, **needs: float) -> list[Any]:
        """Many jobs in one request."""
        jobs = [{"command": command, **needs}] * count
        return list(self._caller.call("POST", "/api/jobs/create", jobs)["jobIds"])

    def output(self, job: Any) -> str:
        """Asks again when the request's own wait is over."""
        return str(self._ended(job)["stdout"])

    def await_end(self, job: Any) -> float:
        """How many seconds the job ran, once it has ended."""
        ended = self._ended(job)
        return float(ended["completedAt"] - ended["startedAt"]) / 1000

    def read_all(self, job: Any) -> bytes:
        """All that the job printed, however much."""
        return self._caller.read("GET", f"/api/jobs/output?jobId={job}")

    def _ended(self, job: Any) -> Any:
        while True:
            answer = self._caller.call("GET", f"/api/jobs/status?jobId={job}&wait=60")
            if answer["completedAt"]:
                return answer


class FlaskClient:
    """Over HTTP; one request waits for the end and brings the output."""

    def __init__(self, url: str) -> None:
        self._caller = Caller(url)

    def submit(self, command: str = COMMAND) -> Any:
        """One job in one request."""
        return self._caller.call("POST", "/jobs", {"command": command})["jobId"]

    def output(self, job: Any) -> str:
        """Asks again when the request's own wait is over."""
        while True:
            answer = self._caller.call("GET", f"/jobs/{job}?wait=60")
            if answer["status"] in ("SUCCESS", "FAILURE"):
                return str(answer["stdout"])


class CeleryClient:
    """In this process, without HTTP."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def submit(self, command: str = COMMAND) -> Any:
        """One task."""
        return self._app.send_task("peers.run", (command, TIMEOUT_SECONDS)).id

    def output(self, job: Any) -> str:
        """Looks until the result is there."""
        while (meta := self._app.backend.get_task_meta(job))["status"] != "SUCCESS":
            time.sleep(LOOK_SECONDS)
        return str(meta["result"]["stdout"])


class DramatiqClient:
    """In this process, without HTTP; Redis tells of the result."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def submit(self, command: str = COMMAND) -> Any:
        """One message."""
        return self._actor.send(command, TIMEOUT_SECONDS)

    def output(self, job: Any) -> str:
        """Waits until the result is there."""
        return str(job.get_result(block=True, timeout=60_000)["stdout"])


@contextlib.contextmanager
def taskyard(folder: Path, **env: str) -> Iterator[Side]:
    """Ourselves: ``taskyard up`` as a user starts it, on its embedded server."""
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("TASKYARD_", "MONGODB_"))},
        "TASKYARD_CONFIG_DIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        **env,
    }
    data, log = folder / "data", folder / "up.log"
    program = Path(sys.executable).with_name("taskyard")
    command = [str(program), "up", "--port", "0", "--data-dir", str(data)]
    with started(command, env, log) as up:

        def ready() -> bool:
            if up.poll() is not None:
                raise SystemExit(f"taskyard up ended:\n{log.read_text()[-2000:]}")
            return "Ctrl-C" in log.read_text()

        wait_until(ready, "taskyard up is ready")
        found = re.search(r"Taskyard is up +(http\S+)", log.read_text())
        assert found is not None
        token = config.load({"TASKYARD_CONFIG_DIR": str(folder)}).token
        uri = (data / "uri").read_text().split()[1]
        with MongoClient[dict[str, Any]](uri) as client:
            jobs = client["taskyard"]["jobs"]
            live = {"status": {"$in": ["QUEUED", "ASSIGNED", "RUNNING"]}}
            yield Side(
                connect=lambda: TaskyardClient(found[1], token),
                is_drained=lambda: jobs.find_one(live, {"_id": 1}) is None,
                processes=_parts_of(up.pid),
                workers=("agent", "keeper"),
            )


def _parts_of(pid: int) -> dict[str, list[psutil.Process]]:
    """The processes of ``taskyard up`` by what they are."""
    parts: dict[str, list[psutil.Process]] = {}
    marks = {
        "mongod": "mongod --dbpath",
        "keeper": "taskyard.agent.keeper",
        "web": "gunicorn",
        "beat": " beat ",
        "scheduler": " scheduler@",
        "agent": " agent@",
    }
    for process in family(pid):
        line = " ".join(process.cmdline())
        kind = next((kind for kind, mark in marks.items() if mark in line), "up")
        parts.setdefault(kind, []).append(process)
    return parts


@contextlib.contextmanager
def flask_celery_redis(folder: Path) -> Iterator[Side]:
    """Flask + Celery, broker and results on Redis."""
    with _celery_redis(folder) as (env, processes, is_drained), _peers_web(folder, env) as web:
        yield Side(
            connect=lambda: FlaskClient(web[0]),
            is_drained=is_drained,
            processes={"web": web[1], **processes},
            workers=("worker",),
        )


@contextlib.contextmanager
def celery_redis(folder: Path) -> Iterator[Side]:
    """Celery on Redis, called directly."""
    with _celery_redis(folder) as (env, processes, is_drained):
        from celery import Celery

        app = Celery(broker=env["PEERS_BROKER"], backend=env["PEERS_BACKEND"], set_as_current=False)
        yield Side(
            connect=lambda: CeleryClient(app),
            is_drained=is_drained,
            processes=processes,
            workers=("worker",),
        )
        app.close()


@contextlib.contextmanager
def flask_celery_mongodb(folder: Path) -> Iterator[Side]:
    """Flask + Celery, broker and results on stock MongoDB."""
    with EmbeddedServer(folder / "db") as server:
        parts = urlsplit(server.uri)
        uri = urlunsplit(parts._replace(path="/peers"))
        env = {**os.environ, "PEERS_BROKER": uri, "PEERS_BACKEND": uri}
        with (
            MongoClient[dict[str, Any]](server.uri) as client,
            _celery_worker(folder, env) as worker,
            _peers_web(folder, env) as web,
        ):
            # The stock transport deletes what it hands out: only results tell of ends.
            messages, results = client["peers"]["messages"], client["peers"]["celery_taskmeta"]
            connected, submitted = _counted(lambda: FlaskClient(web[0]))
            assert server.pid is not None
            yield Side(
                connect=connected,
                is_drained=lambda: (
                    messages.find_one() is None
                    and results.estimated_document_count() >= submitted()
                ),
                processes={"web": web[1], "worker": worker, "mongod": family(server.pid)},
                workers=("worker",),
            )


@contextlib.contextmanager
def dramatiq_redis(folder: Path) -> Iterator[Side]:
    """Dramatiq on Redis, called directly."""
    import redis

    with redis_server(folder) as (port, pid):
        url = f"redis://127.0.0.1:{port}/0"
        os.environ["PEERS_BROKER"] = url
        actor = _fresh_actor()
        command = [sys.executable, "-m", "dramatiq", "bench.peers.dramatiq_app"]
        server = redis.Redis(port=port)
        with started(command, dict(os.environ), folder / "worker.log") as worker:
            wait_until(lambda: len(family(worker.pid)) >= 3, "dramatiq has its processes")
            client = DramatiqClient(actor)
            client.output(client.submit())
            yield Side(
                connect=lambda: DramatiqClient(actor),
                is_drained=lambda: server.hlen("dramatiq:default.msgs") == 0,
                processes={"worker": family(worker.pid), "redis": family(pid)},
                workers=("worker",),
            )
        server.close()


def _fresh_actor() -> Any:
    """The actor on a broker of the address that is in the environment now."""
    sys.modules.pop("bench.peers.dramatiq_app", None)
    from bench.peers import dramatiq_app

    return dramatiq_app.run


@contextlib.contextmanager
def _celery_redis(
    folder: Path,
) -> Iterator[tuple[dict[str, str], dict[str, list[psutil.Process]], Callable[[], bool]]]:
    import redis

    with redis_server(folder) as (port, pid):
        url = f"redis://127.0.0.1:{port}/0"
        env = {**os.environ, "PEERS_BROKER": url, "PEERS_BACKEND": url}
        server = redis.Redis(port=port)
        with _celery_worker(folder, env) as worker:
            # A message is acknowledged once its result is stored.
            yield (
                env,
                {"worker": worker, "redis": family(pid)},
                lambda: server.llen("celery") + server.hlen("unacked") == 0,
            )
        server.close()


@contextlib.contextmanager
def _celery_worker(folder: Path, env: Mapping[str, str]) -> Iterator[list[psutil.Process]]:
    command = [
        *(
            sys.executable,
            "-m",
            "celery",
            "-A",
            "bench.peers.celery_app",
            "worker",
            "-l",
            "WARNING",
        ),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    children = os.cpu_count() or 1
    with started(command, env, folder / "worker.log") as worker:
        wait_until(lambda: len(family(worker.pid)) > children, "celery has its children")
        yield family(worker.pid)


@contextlib.contextmanager
def _peers_web(folder: Path, env: Mapping[str, str]) -> Iterator[tuple[str, list[psutil.Process]]]:
    port, workers = free_port(), 2
    command = [
        *(sys.executable, "-m", "gunicorn", "-k", "gthread", "--keep-alive", "30"),
        *("-w", str(workers), "--threads", "8", "-b", f"127.0.0.1:{port}", "bench.peers.web:app"),
    ]
    url = f"http://127.0.0.1:{port}"
    with started(command, env, folder / "web.log") as web:
        wait_until(lambda: len(family(web.pid)) > workers, "gunicorn has its workers")
        wait_until(lambda: _answers(url), "the peers' web answers")
        yield url, family(web.pid)


def _answers(url: str) -> bool:
    caller = Caller(url)
    try:
        return bool(caller.call("GET", "/jobs/none"))
    except OSError:
        return False
    finally:
        caller.close()


def _counted(
    connect: Callable[[], Client],
) -> tuple[Callable[[], Client], Callable[[], int]]:
    """Clients whose submissions are counted."""
    made: list[_Counting] = []

    def counted() -> Client:
        made.append(_Counting(connect()))
        return made[-1]

    return counted, lambda: sum(client.count for client in made)


class _Counting:
    def __init__(self, client: Client) -> None:
        self.count = 0
        self._client = client
        self.output = client.output

    def submit(self, command: str = COMMAND) -> Any:
        self.count += 1
        return self._client.submit(command)


SIDES: dict[str, Callable[[Path], AbstractContextManager[Side]]] = {
    "taskyard": taskyard,
    "flask+celery+redis": flask_celery_redis,
    "flask+celery+mongodb": flask_celery_mongodb,
    "celery+redis": celery_redis,
    "dramatiq+redis": dramatiq_redis,
}
