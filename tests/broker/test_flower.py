"""Stock Flower on the broker lists the workers and their tasks."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskyard.addresses import free_port
from tests.broker import worker_app
from tests.broker.celery_process import BIN, PATIENCE_SECONDS, wait
from tests.broker.site import Site, Worker

Get = Callable[[str], Any]


@pytest.fixture(scope="module")
def get(site: Site, workers: list[Worker]) -> Iterator[Get]:
    """Start Flower; return a function that gets a path from it, or None if it does not answer."""
    address = f"127.0.0.1:{free_port()}"
    host, _, port = address.partition(":")
    log = (site.folder / "flower.log").open("wb")
    flower = subprocess.Popen(
        [
            *(BIN / "celery", "-A", worker_app.__name__),
            *("flower", f"--address={host}", f"--port={port}"),
        ],
        cwd=site.folder,
        env={**site.environment(), "FLOWER_UNAUTHENTICATED_API": "true"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )

    def ask(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
                return json.loads(answer.read())
        except (urllib.error.URLError, ConnectionError):
            return None

    yield ask
    flower.terminate()
    flower.wait(PATIENCE_SECONDS)
    log.close()


def test_flower_lists_the_workers(get: Get, workers: list[Worker]) -> None:
    names = {worker.hostname for worker in workers}
    wait(lambda: names <= set(get("/api/workers?refresh=true") or ()), lambda: get("/api/workers"))
    for worker in get("/api/workers").values():
        assert worker["stats"]["broker"]["transport"] == "taskyard"
        assert [queue["name"] for queue in worker["active_queues"]] == ["celery"]
        assert "note" in worker["registered"]


def test_flower_lists_the_tasks_with_their_states(get: Get, site: Site) -> None:
    wait(lambda: get("/api/workers"), lambda: get("/api/workers"))
    identity = site.send("note", "flower")

    def succeeded() -> bool:
        return bool((get("/api/tasks") or {}).get(identity, {}).get("state") == "SUCCESS")

    wait(succeeded, lambda: get("/api/tasks"))
    assert get("/api/tasks")[identity]["name"] == "note"
