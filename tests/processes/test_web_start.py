"""How web starts: never open to strangers without tokens, and without a temporary folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from taskyard.addresses import free_port
from taskyard.embedded import EmbeddedServer
from tests.helpers import answers, eventually
from tests.processes.conftest import BIN, user_environment

ANYWHERE = f"0.0.0.0:{free_port()}"

WAYS = [
    pytest.param([], {"TASKYARD_BIND": ANYWHERE}, id="setting"),
    pytest.param(["-b", ANYWHERE], {}, id="argument"),
    pytest.param([], {"GUNICORN_CMD_ARGS": f"-b 127.0.0.1:0 -b {ANYWHERE}"}, id="one of two"),
]


@pytest.mark.parametrize(("arguments", "env"), WAYS)
@pytest.mark.parametrize(
    ("auth", "said"), [("on", "there are no tokens yet"), ("off", "is for loopback only")]
)
def test_a_web_that_would_ask_nobody_does_not_listen_to_strangers(
    mongod: EmbeddedServer,
    tmp_path: Path,
    arguments: list[str],
    env: dict[str, str],
    auth: str,
    said: str,
) -> None:
    config = ["-c", "python:taskyard.gunicorn_config", "taskyard.wsgi:app"]
    settings = {"TASKYARD_DATABASE": "no_tokens", "TASKYARD_AUTH": auth, **env}
    ended = subprocess.run(
        [BIN / "gunicorn", *config, *arguments],
        env=user_environment(tmp_path, MONGODB_URI=mongod.uri, **settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert said in ended.stderr
    assert ANYWHERE in ended.stderr
    assert "Listening" not in ended.stderr


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no memory for files")
def test_a_web_starts_though_no_temporary_folder_takes_anything(
    mongod: EmbeddedServer, tmp_path: Path
) -> None:
    port = free_port()
    command = f"{BIN}/gunicorn -c python:taskyard.gunicorn_config taskyard.wsgi:app"
    env = {"TASKYARD_DATABASE": "no_room", "TASKYARD_BIND": f"127.0.0.1:{port}"}
    with subprocess.Popen(
        ["sh", "-c", f"ulimit -f 0; exec {command}"],
        env=user_environment(tmp_path, MONGODB_URI=mongod.uri, **env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as web:
        try:
            eventually(lambda: web.poll() is not None or answers(f"http://127.0.0.1:{port}"), 60)
            assert web.poll() is None
        finally:
            web.terminate()
