"""The whole platform as it is deployed, under load, while its database loses its primary."""

from __future__ import annotations

import shlex
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from pymongo import MongoClient

from taskyard import Client
from taskyard.addresses import free_port
from taskyard.settings import Settings
from taskyard.store import client as store_client
from taskyard.up.processes import COMMANDS
from tests.helpers import eventually
from tests.processes.conftest import BIN, ROOT, user_environment
from tests.replica_set import ReplicaSet

DATABASE = "platform"

#: The bound on a request: one failing operation takes 5 s; the rest is for a busy machine.
ANSWERED_SECONDS = 15.0

#: The least time between two faults, in which the platform must work again.
CALM_SECONDS = 6.0


@dataclass
class Load:
    """An app that submits short and long jobs at intervals, and retries each until accepted."""

    url: str
    token: str
    log: Path
    accepted: dict[str, str] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_seconds: float = 0

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(name, seconds, every))
            for name, seconds, every in (("short", 0.2, 0.25), ("long", 8, 3.0))
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, kind: str, seconds: float, every_seconds: float) -> None:
        with httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=4 * ANSWERED_SECONDS,
        ) as http:
            number = 0
            while not self._stopped.wait(every_seconds):
                number += 1
                self._submit(http, f"{kind}-{number}", seconds)

    def _submit(self, http: httpx2.Client, name: str, seconds: float) -> None:
        body = {
            "command": f"echo {name} >> {self.log}; echo {name}; sleep {seconds}; echo end",
            "requiredCpu": 0.05,
            "requiredRamMb": 16,
        }
        for _ in range(60):
            began = time.monotonic()
            answer = http.post("/api/jobs/create", json=body, headers={"Idempotency-Key": name})
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            self.answers[answer.status_code] += 1
            if answer.status_code == 201:
                self.accepted[name] = answer.json()["jobId"]
                return
            if answer.status_code != 503 or "Retry-After" not in answer.headers:
                self.wrong.append(f"{answer.status_code} {answer.text}")
                return
            if self._stopped.wait(0.5):
                return


class Platform:
    """Web, beat, scheduler and agent as processes that nobody restarts."""

    def __init__(self, uri: str, home: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        env = user_environment(
            home,
            MONGODB_URI=uri,
            TASKYARD_DATABASE=DATABASE,
            TASKYARD_BIND=self.url.removeprefix("http://"),
            TASKYARD_WORKSPACE_DIR=str(home / "workspaces"),
            TASKYARD_DRAIN_GRACE_SECONDS="2",
        )
        self.logs = {name: home / f"{name}.log" for name in COMMANDS}
        self.processes = {}
        for name, line in COMMANDS.items():
            program, *arguments = shlex.split(line)
            with self.logs[name].open("wb") as log:
                self.processes[name] = subprocess.Popen(
                    [BIN / program, *arguments],
                    cwd=ROOT,
                    env=env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def everything(self) -> set[tuple[str, int]]:
        """Return name and pid of the four processes and of web's workers."""
        found = {(name, process.pid) for name, process in self.processes.items()}
        web = psutil.Process(self.processes["web"].pid)
        return found | {("web worker", child.pid) for child in web.children()}

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(timeout=30)


@pytest.fixture
def token(replica_set: ReplicaSet) -> Iterator[str]:
    settings = Settings(mongodb_uri=replica_set.uri, database=DATABASE)
    store = store_client.connect(settings)
    store.client.drop_database(DATABASE)
    yield store.tokens.create(role="operator", name="load")
    store.close()


@pytest.fixture
def running(replica_set: ReplicaSet, token: str, tmp_path: Path) -> Iterator[Platform]:
    started = Platform(replica_set.uri, tmp_path)
    try:
        eventually(lambda: _ready(started.url), 60)
        yield started
    finally:
        started.stop()


@pytest.mark.timeout(240)
def test_elections_cost_no_job_and_no_process(
    running: Platform,
    replica_set: ReplicaSet,
    token: str,
    tmp_path: Path,
    admin: MongoClient[dict[str, Any]],
) -> None:
    before = running.everything()
    jobs = admin[DATABASE]["jobs"]
    with Load(running.url, token, tmp_path / "runs") as load:
        eventually(lambda: len(load.accepted) > 5, 30)
        _step_down(replica_set)
        _calm(load)
        _kill(replica_set)
        _calm(load)
        _pause(replica_set)
        _calm(load)
        _take_majority(replica_set, load)
        _calm(load)
    try:
        eventually(lambda: not jobs.count_documents({"completedAt": {"$exists": False}}), 90)
    finally:
        print(load.answers, f"slowest {load.slowest_seconds:.1f} s", _waiting(running, token))
        print(_tails(running))

    assert not load.wrong
    assert set(load.answers) == {201, 503}
    assert load.slowest_seconds < ANSWERED_SECONDS
    assert running.everything() == before, "a process was started again"
    stored = {job["_id"]: job for job in jobs.find()}
    assert set(load.accepted.values()) == set(stored), "one job for each key"
    ended = Counter((job["status"], job["attempts"]) for job in stored.values())
    assert ended == {("COMPLETED", 1): len(stored)}
    runs = Counter((tmp_path / "runs").read_text().split())
    assert runs == dict.fromkeys(load.accepted, 1), "each ran once"
    with Client(running.url, token=token) as client:
        for name, job_id in load.accepted.items():
            assert "".join(client.output(job_id)) == f"{name}\nend\n"


def _ready(url: str) -> bool:
    try:
        answer = httpx2.get(f"{url}/readyz").json()
    except httpx2.TransportError:
        return False
    agents = answer["checks"].get("agents", {}).get("detail")
    return bool(answer["status"] == "ok" and agents == "1 of 1 online")


def _step_down(replica_set: ReplicaSet) -> None:
    replica_set.step_down()
    replica_set.await_primary()


def _kill(replica_set: ReplicaSet) -> None:
    primary = replica_set.await_primary()
    primary.signal(signal.SIGKILL)
    replica_set.await_primary()
    primary.start()


def _pause(replica_set: ReplicaSet) -> None:
    primary = replica_set.await_primary()
    primary.signal(signal.SIGSTOP)
    try:
        replica_set.await_primary()
    finally:
        primary.signal(signal.SIGCONT)


def _take_majority(replica_set: ReplicaSet, load: Load) -> None:
    """Stop both secondaries until requests have been answered with 503."""
    primary = replica_set.await_primary()
    others = [member for member in replica_set.members if member is not primary]
    for member in others:
        member.signal(signal.SIGSTOP)
    try:
        eventually(lambda: load.answers[503] > 1, 60)
    finally:
        for member in others:
            member.signal(signal.SIGCONT)
    replica_set.await_primary()


def _calm(load: Load) -> None:
    """Wait CALM_SECONDS and until jobs are accepted again."""
    taken, since = len(load.accepted), time.monotonic()
    eventually(
        lambda: len(load.accepted) > taken + 5 and time.monotonic() - since > CALM_SECONDS, 60
    )


def _waiting(running: Platform, token: str) -> list[str]:
    """Return why jobs still wait."""
    answer = httpx2.get(
        f"{running.url}/api/jobs/list?status=QUEUED&limit=5",
        headers={"Authorization": f"Bearer {token}"},
        timeout=ANSWERED_SECONDS,
    )
    return [str(job.get("waitingReason")) for job in answer.json().get("jobs", [])]


def _tails(running: Platform) -> str:
    """Return the ends of all logs, to be shown when the test fails."""
    return "\n".join(f"--- {name}\n{log.read_text()[-1500:]}" for name, log in running.logs.items())
