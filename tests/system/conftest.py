"""The web process as it is deployed: a real gunicorn with the real mongod."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from taskyard.addresses import free_port
from taskyard.embedded import EmbeddedServer
from taskyard.settings import Settings
from taskyard.store import client as store_client
from tests.helpers import answers, eventually
from tests.processes.conftest import user_environment

DATABASE = "system"


@dataclass
class Web:
    """A running gunicorn with one worker process."""

    url: str
    process: subprocess.Popen[bytes]

    def worker(self) -> psutil.Process:
        """Return the process that serves requests."""
        (child,) = psutil.Process(self.process.pid).children()
        return child


@pytest.fixture
def start_web(mongod: EmbeddedServer, tmp_path: Path) -> Iterator[Callable[..., Web]]:
    """A function that starts gunicorn with these settings and an empty database."""
    started: list[Web] = []

    def start(**settings: str) -> Web:
        store = store_client.connect(Settings(mongodb_uri=mongod.uri, database=DATABASE))
        store.client.drop_database(DATABASE)
        store.close()
        bind = f"127.0.0.1:{free_port()}"
        env = user_environment(
            tmp_path,
            **{
                "MONGODB_URI": mongod.uri,
                "TASKYARD_DATABASE": DATABASE,
                "TASKYARD_BIND": bind,
                **settings,
            },
        )
        config = ["-c", "python:taskyard.gunicorn_config", "taskyard.wsgi:app"]
        process = subprocess.Popen([sys.executable, "-m", "gunicorn", *config], env=env)
        web = Web(url=f"http://{bind}", process=process)
        started.append(web)
        eventually(lambda: _answers(web), 30)
        return web

    yield start
    for web in started:
        web.process.terminate()
        web.process.wait(timeout=20)


def _answers(web: Web) -> bool:
    assert web.process.poll() is None, "gunicorn ended"
    return answers(web.url)
