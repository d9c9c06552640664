"""The Procfile under honcho: the same processes as ``up``, with an operator's MongoDB."""

from __future__ import annotations

import shlex
import signal
import subprocess
from pathlib import Path

import psutil

from taskyard import Client
from taskyard.addresses import free_port
from taskyard.embedded import EmbeddedServer
from taskyard.errors import TaskyardError
from taskyard.settings import Settings
from taskyard.store import client as store_client
from taskyard.up.processes import COMMANDS
from tests.helpers import eventually
from tests.processes.conftest import BIN, ROOT, alive, user_environment


def test_the_procfile_starts_what_up_starts() -> None:
    lines = (ROOT / "Procfile").read_text().splitlines()
    listed = dict(line.split(": ", 1) for line in lines)
    assert {name: shlex.split(text) for name, text in listed.items()} == {
        name: shlex.split(text) for name, text in COMMANDS.items()
    }


def test_honcho_runs_the_platform(mongod: EmbeddedServer, tmp_path: Path) -> None:
    settings = Settings(mongodb_uri=mongod.uri, database="procfile")
    store = store_client.connect(settings)
    store.client.drop_database("procfile")
    token = store.tokens.create(role="operator", name="test")
    bind = f"127.0.0.1:{free_port()}"
    runner = subprocess.Popen(
        [BIN / "honcho", "start"],
        cwd=ROOT,
        env=user_environment(
            tmp_path, MONGODB_URI=mongod.uri, TASKYARD_DATABASE="procfile", TASKYARD_BIND=bind
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with Client(f"http://{bind}", token) as client:
            job_id = eventually(lambda: _submitted(client), 30)
            job = client.wait(job_id)
            assert (job["status"], job["stdout"]) == ("COMPLETED", "hello\n")
        processes = psutil.Process(runner.pid).children(recursive=True)
        assert len(processes) >= len(COMMANDS)
    finally:
        runner.send_signal(signal.SIGTERM)
        runner.wait(timeout=30)
        store.close()
    eventually(lambda: not alive(processes), 10)


def _submitted(client: Client) -> str | None:
    try:
        return client.submit("echo hello")
    except TaskyardError:
        return None
