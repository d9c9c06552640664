"""An agent that starts while MongoDB does not answer, or that can never start."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskyard.embedded import EmbeddedServer
from taskyard.settings import Settings
from taskyard.store import client as store_client
from tests.chaos.proxy import Mode, Proxy
from tests.helpers import eventually
from tests.processes.conftest import BIN, ROOT, user_environment


@pytest.fixture
def network(mongod: EmbeddedServer) -> Iterator[Proxy]:
    """A proxy in front of MongoDB that refuses connections."""
    port = re.search(r":(\d+)/", mongod.uri)
    assert port
    with Proxy(int(port[1])) as proxy:
        proxy.set(Mode.REFUSE)
        yield proxy


@pytest.fixture
def agent(
    mongod: EmbeddedServer, network: Proxy, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker whose log says that it waits for MongoDB."""
    uri = re.sub(r":\d+/", f":{network.port}/", mongod.uri)
    log = tmp_path / "log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            [BIN / "celery", "-A", "taskyard.celery_app", "worker", "-n", "late@test"],
            cwd=ROOT,
            env=user_environment(tmp_path, MONGODB_URI=uri, TASKYARD_DATABASE="late"),
            stdout=out,
            stderr=out,
        )
    try:
        eventually(lambda: "agent.waits_for_store" in log.read_text(), 60)
        yield started
    finally:
        started.kill()
        started.wait()


def test_it_registers_as_soon_as_mongodb_answers(
    agent: subprocess.Popen[bytes], network: Proxy, mongod: EmbeddedServer
) -> None:
    network.set(Mode.PASS)
    store = store_client.connect(Settings(mongodb_uri=mongod.uri, database="late"))
    eventually(lambda: store.database["workers"].find_one({"_id": "late@test"}), 60)
    assert agent.poll() is None
    store.client.drop_database("late")
    store.close()


def test_a_signal_ends_it_while_it_waits(agent: subprocess.Popen[bytes]) -> None:
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0


@pytest.mark.parametrize("folder", ["/dev/null/workspaces", "/proc"])
def test_a_workspace_folder_that_cannot_be_ends_it_with_one_line_that_says_so(
    mongod: EmbeddedServer, tmp_path: Path, folder: str
) -> None:
    env = {"MONGODB_URI": mongod.uri, "TASKYARD_DATABASE": "wrong"}
    ended = subprocess.run(
        [BIN / "celery", "-A", "taskyard.celery_app", "worker", "-n", "wrong@test"],
        cwd=ROOT,
        env=user_environment(tmp_path, **env, TASKYARD_WORKSPACE_DIR=folder),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if "TASKYARD_WORKSPACE_DIR" in line]
    assert "agent.cannot_start" in line
    assert "Traceback" not in ended.stderr
